package limitspec_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
)

// kinds ends the errors about what a limit lacks or has too much of.
const kinds = ": a limit has either a rate and a capacity, or a quota, or concurrent"

func TestLimit(t *testing.T) {
	for want, s := range map[string]limitspec.Spec{
		"l: 5/s, capacity 10":                                {Rate: "5/s", Capacity: 10},
		"l: 5/s, capacity 10, cost 10":                       {Rate: "5/s", Capacity: 10, Cost: 10},
		"l: quota 1000/day":                                  {Quota: "1000/day"},
		"l: quota 1000/24h from 2026-01-15, cost 7":          {Quota: "1000/24h", Anchor: "2026-01-15", Cost: 7},
		"l: quota 1000000000000/month in UTC":                {Quota: "1000000000000/month", Zone: "UTC"},
		"l: quota 1/year in Asia/Kathmandu from 2026-01-15":  {Quota: "1/year", Zone: "Asia/Kathmandu", Anchor: "2026-01-15"},
		"l: quota 1/minute from 2026-01-15T08:00:00.5+05:45": {Quota: "1/minute", Anchor: "2026-01-15T08:00:00.5+05:45"},
		"l: 5 at once, lease 1m":                             {Concurrent: 5},
		"l: 1 at once, lease 90s":                            {Concurrent: 1, Lease: "1.5m"},
	} {
		s.Name = "l"
		limit, err := s.Limit()
		require.NoError(t, err, want)
		assert.Equal(t, want, limit.String())
	}
}

func TestLimit_saysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		s    limitspec.Spec
		want string
	}{
		{limitspec.Spec{}, "rate: is missing" + kinds},
		{limitspec.Spec{Cost: 1}, "rate: is missing" + kinds},
		{limitspec.Spec{Capacity: 1}, "rate: is missing" + kinds},
		{limitspec.Spec{Rate: "5/s"}, "capacity: is missing" + kinds},
		{limitspec.Spec{Rate: "5/s", Capacity: 1, Quota: "1/day"}, `quota: "1/day": there is a rate, too` + kinds},
		{limitspec.Spec{Capacity: 1, Quota: "1/day"}, `capacity: 1: a quota has no capacity` + kinds},
		{limitspec.Spec{Zone: "UTC"}, `zone: "UTC": only a quota has a zone` + kinds},
		{limitspec.Spec{Rate: "5/s", Capacity: 1, Anchor: "2026-01-15"}, `anchor: "2026-01-15": only a quota has an anchor` + kinds},
		{
			limitspec.Spec{Rate: "5/s", Capacity: 1, Zone: "UTC", Anchor: "2026-01-15"},
			`zone: "UTC": only a quota has a zone` + kinds + "\n" + `anchor: "2026-01-15": only a quota has an anchor` + kinds,
		},
		{limitspec.Spec{Rate: "5/s", Capacity: 1, Concurrent: 5}, `concurrent: 5: there is a rate, too` + kinds},
		{limitspec.Spec{Quota: "1/day", Concurrent: 5}, `concurrent: 5: there is a quota, too` + kinds},
		{
			limitspec.Spec{Rate: "5/s", Quota: "1/day", Concurrent: 5},
			`quota: "1/day": there is a rate, too` + kinds + "\nconcurrent: 5: there is a rate, too" + kinds,
		},
		{limitspec.Spec{Capacity: 1, Concurrent: 5}, `capacity: 1: a concurrency limit has no capacity` + kinds},
		{limitspec.Spec{Zone: "UTC", Concurrent: 5}, `zone: "UTC": only a quota has a zone` + kinds},
		{limitspec.Spec{Lease: "1m"}, `lease: "1m": only a concurrency limit has a lease` + kinds},
		{limitspec.Spec{Quota: "1/day", Lease: "1m"}, `lease: "1m": only a concurrency limit has a lease` + kinds},
		{limitspec.Spec{Concurrent: -1}, `concurrent: -1: must be from 1 to 1000000 permits`},
		{limitspec.Spec{Concurrent: 5, Lease: "86401s"}, `lease: "86401s": must be from 1s to 24h, in whole microseconds`},
		{limitspec.Spec{Concurrent: 5, Lease: "5"}, `lease: "5": must be a duration with a unit and no sign, as in 500ms, 60s or 1h30m`},
		{limitspec.Spec{Concurrent: 5, Cost: 1}, `cost: 1: a concurrency limit always counts one permit`},
		{limitspec.Spec{Quota: "1/hour", Zone: "UTC"}, `zone: "UTC": only a quota per day, week, month or year can have a zone`},
		{limitspec.Spec{Quota: "0/day"}, `quota: "0/day": must be from 1 to 10^12 tokens`},
		{limitspec.Spec{Quota: "1/d"}, `quota: "1/d": the period "d": write day`},
		{limitspec.Spec{Rate: "0/s", Capacity: 1}, `rate: "0/s": must refill from 1 to 10^12 tokens`},
		{limitspec.Spec{Rate: "5/s", Capacity: -1}, `capacity: -1: must be from 1 to 10^12 tokens`},
		{limitspec.Spec{Rate: "5/s", Capacity: 5, Cost: 6}, `cost: 6: must be from 1 to 5, the capacity of l`},
		{limitspec.Spec{Quota: "5/day", Cost: -1}, `cost: -1: must be from 1 to 5, the capacity of l`},
		{
			limitspec.Spec{Quota: "1/d", Anchor: "2026-02-30"},
			`quota: "1/d": the period "d": write day` + "\n" +
				`anchor: "2026-02-30": day out of range; must be a date, as in 2026-01-15, or a time with its offset, as in 2026-01-15T08:00:00+01:00`,
		},
	} {
		c.s.Name = "l"
		limit, err := c.s.Limit()
		require.EqualError(t, err, c.want)
		require.ErrorIs(t, err, domain.ErrInvalidLimit)
		require.NotEmpty(t, domain.FieldErrors(err))
		assert.True(t, limit.IsZero())
	}
	_, err := limitspec.Spec{Name: "L", Quota: "1/day"}.Limit()
	require.EqualError(t, err, `name: "L": `+domain.NameRule)
}

// A row is what an override says, and the limits that it makes of a bucket, of a quota and of permits.
func TestOverride_keepsWhatItDoesNotSay(t *testing.T) {
	bucket := limitspec.Spec{Name: "l", Rate: "5/s", Capacity: 100, Cost: 2}
	quota := limitspec.Spec{Name: "l", Quota: "1000/day", Zone: "Europe/Berlin", Anchor: "2026-01-15", Cost: 2}
	permits := limitspec.Spec{Name: "l", Concurrent: 5, Lease: "90s"}
	const nothing = "name: nothing is said about this limit: say at least one of rate, capacity, quota, zone, anchor, concurrent, lease and cost"
	const (
		hourly              = `zone: "UTC": only a quota per day, week, month or year can have a zone`
		twoKinds            = `quota: "9/day": there is a rate, too` + kinds
		withCapacity        = "capacity: 9: a quota has no capacity" + kinds
		permitsWithCapacity = "capacity: 9: a concurrency limit has no capacity" + kinds
	)
	for _, c := range []struct {
		s                             limitspec.Spec
		ofBucket, ofAQuota, ofPermits string
	}{
		{limitspec.Spec{}, nothing, nothing, nothing},
		{limitspec.Spec{Cost: 3}, "l: 5/s, capacity 100, cost 3", "l: quota 1000/day in Europe/Berlin from 2026-01-15, cost 3", "cost: 3: a concurrency limit always counts one permit"},
		{limitspec.Spec{Rate: "9/s"}, "l: 9/s, capacity 100, cost 2", "capacity: is missing" + kinds, "capacity: is missing" + kinds},
		{limitspec.Spec{Capacity: 9}, "l: 5/s, capacity 9, cost 2", "capacity: 9: a quota has no capacity" + kinds, "capacity: 9: a concurrency limit has no capacity" + kinds},
		{limitspec.Spec{Rate: "9/s", Capacity: 9}, "l: 9/s, capacity 9, cost 2", "l: 9/s, capacity 9, cost 2", "l: 9/s, capacity 9"},
		{limitspec.Spec{Quota: "9/day"}, "l: quota 9/day, cost 2", "l: quota 9/day in Europe/Berlin from 2026-01-15, cost 2", "l: quota 9/day"},
		{limitspec.Spec{Quota: "9/month", Cost: 9}, "l: quota 9/month, cost 9", "l: quota 9/month in Europe/Berlin from 2026-01-15, cost 9", "l: quota 9/month, cost 9"},
		{limitspec.Spec{Quota: "9/hour"}, "l: quota 9/hour, cost 2", "l: quota 9/hour from 2026-01-15, cost 2", "l: quota 9/hour"},
		{limitspec.Spec{Quota: "9/24h"}, "l: quota 9/24h, cost 2", "l: quota 9/24h from 2026-01-15, cost 2", "l: quota 9/24h"},
		{limitspec.Spec{Zone: "UTC"}, `zone: "UTC": only a quota has a zone` + kinds, "l: quota 1000/day in UTC from 2026-01-15, cost 2", `zone: "UTC": only a quota has a zone` + kinds},
		{limitspec.Spec{Anchor: "2026-02-01"}, `anchor: "2026-02-01": only a quota has an anchor` + kinds, "l: quota 1000/day in Europe/Berlin from 2026-02-01, cost 2", `anchor: "2026-02-01": only a quota has an anchor` + kinds},
		{limitspec.Spec{Quota: "9/day", Zone: "UTC"}, "l: quota 9/day in UTC, cost 2", "l: quota 9/day in UTC from 2026-01-15, cost 2", "l: quota 9/day in UTC"},
		{
			limitspec.Spec{Quota: "9/hour", Zone: "UTC"},
			hourly, hourly, hourly,
		},
		{limitspec.Spec{Rate: "9/s", Quota: "9/day"}, twoKinds, twoKinds, twoKinds},
		{limitspec.Spec{Quota: "9/day", Capacity: 9}, withCapacity, withCapacity, withCapacity},
		{limitspec.Spec{Quota: "1/day"}, "cost: 2: must be from 1 to 1, the capacity of l", "cost: 2: must be from 1 to 1, the capacity of l", "l: quota 1/day"},
		{limitspec.Spec{Concurrent: 9}, "l: 9 at once, lease 1m", "l: 9 at once, lease 1m", "l: 9 at once, lease 90s"},
		{limitspec.Spec{Lease: "2m"}, `lease: "2m": only a concurrency limit has a lease` + kinds, `lease: "2m": only a concurrency limit has a lease` + kinds, "l: 5 at once, lease 2m"},
		{limitspec.Spec{Concurrent: 9, Lease: "2m"}, "l: 9 at once, lease 2m", "l: 9 at once, lease 2m", "l: 9 at once, lease 2m"},
		{limitspec.Spec{Concurrent: 9, Capacity: 9}, permitsWithCapacity, permitsWithCapacity, permitsWithCapacity},
		{limitspec.Spec{Concurrent: 9, Rate: "9/s"}, "concurrent: 9: there is a rate, too" + kinds, "concurrent: 9: there is a rate, too" + kinds, "concurrent: 9: there is a rate, too" + kinds},
	} {
		c.s.Name = "l"
		assert.Equal(t, c.ofBucket, result(c.s.Override(bucket)))
		assert.Equal(t, c.ofAQuota, result(c.s.Override(quota)))
		assert.Equal(t, c.ofPermits, result(c.s.Override(permits)))
	}
}

// result returns the limit as text, or the error.
func result(l domain.Limit, err error) string {
	if err != nil {
		return err.Error()
	}
	return l.String()
}

func TestCheck_refusesEmptyTexts(t *testing.T) {
	for field, check := range map[string]func(string) error{
		"rate": limitspec.CheckRate, "quota": limitspec.CheckQuota, "zone": limitspec.CheckZone, "anchor": limitspec.CheckAnchor,
		"lease": limitspec.CheckLease,
	} {
		errs := domain.FieldErrors(check(""))
		require.Len(t, errs, 1, field)
		assert.Equal(t, field, errs[0].Field)
	}
}

func TestCheckRate_offersAQuota(t *testing.T) {
	const units = ": durations have the units us, ms, s, m and h"
	const form = "must be <tokens>/<duration>, as in 5/s, 100/m, 1000/h or 3/250ms"
	for in, want := range map[string]string{
		"5/d":     "must be 5/24h" + units + "; for at most that many in each day write quota: 5/day",
		"5/Days":  "must be 5/24h" + units + "; for at most that many in each day write quota: 5/day",
		"5/w":     "must be 5/168h" + units + "; for at most that many in each week write quota: 5/week",
		"5/month": form + "; for at most that many in each month write quota: 5/month",
		"5/years": form + "; for at most that many in each year write quota: 5/year",
		"5/hour":  "must be 5/h" + units,
		"5/s/day": form,
	} {
		errs := domain.FieldErrors(limitspec.CheckRate(in))
		require.Len(t, errs, 1, in)
		assert.Equal(t, want, errs[0].Reason)
	}
	require.NoError(t, limitspec.CheckRate("10000/24h"))
}

// FuzzOverride: an override gives a limit or errors that name a field, and what a whole limit says does not depend on the base.
func FuzzOverride(f *testing.F) {
	f.Add("5/s", int64(10), "", "", "", int64(0), "", int64(0), "", int64(0), "1/day", "UTC", "2026-01-15", int64(0), "", int64(1))
	f.Add("9/s", int64(9), "", "", "", int64(0), "", int64(1), "", int64(0), "1/day", "UTC", "", int64(0), "", int64(1))
	f.Add("", int64(10), "", "", "", int64(0), "", int64(0), "5/s", int64(10), "", "", "", int64(0), "", int64(0))
	f.Add("", int64(0), "9/24h", "", "2026-01-15T08:00:00Z", int64(0), "", int64(0), "", int64(0), "1/month", "Asia/Kathmandu", "", int64(0), "", int64(1))
	f.Add("", int64(0), "", "", "", int64(9), "", int64(0), "", int64(0), "", "", "", int64(5), "90s", int64(0))
	f.Fuzz(func(t *testing.T, rate string, capacity int64, quota, zone, anchor string, concurrent int64, lease string, cost int64,
		baseRate string, baseCapacity int64, baseQuota, baseZone, baseAnchor string, baseConcurrent int64, baseLease string, baseCost int64,
	) {
		base := limitspec.Spec{
			"l", baseRate, domain.Tokens(baseCapacity), baseQuota, baseZone, baseAnchor, domain.Tokens(baseConcurrent), baseLease, domain.Tokens(baseCost),
		}
		if _, err := base.Limit(); err != nil {
			return
		}
		s := limitspec.Spec{"l", rate, domain.Tokens(capacity), quota, zone, anchor, domain.Tokens(concurrent), lease, domain.Tokens(cost)}
		limit, err := s.Override(base)
		require.Equal(t, err != nil, limit.IsZero())
		require.Equal(t, err != nil, len(domain.FieldErrors(err)) > 0)
		if alone, ofItself := s.Limit(); ofItself == nil && alone.TokenBucket() != nil && s.Cost != 0 {
			require.True(t, limit.Equal(alone), "%s, not %s", &limit, &alone)
		}
	})
}

func TestOf_isTheInverseOfLimit(t *testing.T) {
	for _, s := range []limitspec.Spec{
		{Name: "a", Rate: "5/s", Capacity: 10},
		{Name: "a", Rate: "300/90m", Capacity: 10, Cost: 3},
		{Name: "a", Rate: "7/250ms", Capacity: 1000000},
		{Name: "a", Quota: "1000/day"},
		{Name: "a", Quota: "1000/month", Zone: "Europe/Berlin", Anchor: "2026-01-15", Cost: 2},
		{Name: "a", Quota: "1000/36h", Anchor: "2026-01-15T10:00:00Z"},
		{Name: "a", Concurrent: 5, Lease: "90s"},
		{Name: "a", Concurrent: 5, Lease: "1500ms"},
	} {
		limit, err := s.Limit()
		require.NoError(t, err)
		again, err := limitspec.Of(&limit).Limit()
		require.NoError(t, err)
		assert.True(t, limit.Equal(again), "%v and %v", &limit, &again)
	}
}
