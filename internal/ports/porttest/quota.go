package porttest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// quota makes a quota. zoneAndAnchor are a zone, or a zone and an anchor.
func quota(t *testing.T, name string, size domain.Tokens, period string, zoneAndAnchor ...string) domain.Limit {
	t.Helper()
	rest := append(zoneAndAnchor, "", "")
	periods, err := calendar.Parse(period, rest[0], rest[1])
	require.NoError(t, err)
	l, err := domain.NewQuota(name, size, periods)
	require.NoError(t, err)
	return l
}

// quotas are of 5 tokens in periods of every sort.
func quotas(t *testing.T) []domain.Limit {
	t.Helper()
	return []domain.Limit{
		quota(t, "each", 5, "1s"), quota(t, "each", 5, "minute"), quota(t, "each", 5, "36h"), quota(t, "each", 5, "week"),
		quota(t, "each", 5, "day", "America/New_York"), quota(t, "each", 5, "month", "Europe/Berlin", "2026-01-31"),
		quota(t, "each", 5, "year", "Asia/Kolkata", "2050-07-01"),
	}
}

// toPeriod moves the clock to the first instant of the next period, and d on from there.
func (b *bench) toPeriod(l domain.Limit, d time.Duration) {
	b.t.Helper()
	now := b.do(domain.OpPeek, key("clock"), 0, l).Now
	_, end, _ := l.Quota().Periods().At(now)
	b.Advance(end.Add(d).Sub(now))
}

func quotaIsExact(t *testing.T, h Harness) {
	for _, l := range quotas(t) {
		b := h.bench(t)
		for period := range 3 {
			for i := range 5 {
				r := b.do(domain.OpTake, key("a"), 1, l)
				require.Equal(t, domain.Allowed, r.Verdict, "%s: take %d of period %d", l.Rate(), i, period)
				assert.Equal(t, domain.Tokens(4-i), l.Remaining(r.States[0]), l.Rate())
				b.Advance(100 * time.Microsecond)
			}
			r := b.do(domain.OpTake, key("a"), 1, l)
			require.Equal(t, domain.Denied, r.Verdict, "%s: the sixth of five", l.Rate())
			_, end, _ := l.Quota().Periods().At(r.Now)
			wait := l.RetryAfter(r.States[0], 1, 0, r.Now)
			assert.Equal(t, end.Sub(r.Now), wait, l.Rate())
			b.Advance(wait - time.Microsecond)
			assert.Equal(t, domain.Denied, b.take(key("a"), 1, l), "%s: a microsecond early", l.Rate())
			b.Advance(time.Microsecond)
		}
		b.toPeriod(l, 0)
		b.toPeriod(l, 0)
		r := b.do(domain.OpTake, key("a"), 6, l)
		assert.Equal(t, domain.Denied, r.Verdict, l.Rate())
		assert.Equal(t, domain.Never, l.RetryAfter(r.States[0], 6, 0, r.Now), "more than the quota passes at no time")
		assert.Equal(t, []domain.Tokens{5}, b.remaining(key("a"), l), "a denial spends nothing")
	}
}

// One call asks for quotas of many periods, also when all periods that the store knew are over.
func quotasInOneCall(t *testing.T, h Harness) {
	b, limits := h.bench(t), quotas(t)
	reqs := make([]ports.TakeRequest, 40*len(limits))
	for i := range reqs {
		reqs[i] = ports.TakeRequest{
			Op: domain.OpTake, Key: clientKey(i % len(limits)), Limits: limits[i%len(limits) : i%len(limits)+1], Cost: 1,
		}
	}
	for range 3 {
		for i, r := range b.many(t.Context(), reqs) {
			require.NoError(t, r.Err)
			want := domain.Allowed
			if i >= 5*len(limits) {
				want = domain.Denied
			}
			assert.Equal(t, want, r.Verdict, "take %d of %s", i/len(limits), reqs[i].Limits[0].Rate())
		}
		b.Advance(2 * 366 * 24 * time.Hour)
	}
}

func quotaRefund(t *testing.T, h Harness) {
	b, l := h.bench(t), quota(t, "daily", 10, "day")
	b.take(key("a"), 6, l)
	b.do(domain.OpRefund, key("a"), 2, l)
	assert.Equal(t, []domain.Tokens{6}, b.remaining(key("a"), l))
	r := b.do(domain.OpRefund, key("a"), domain.MaxCost, l)
	assert.Equal(t, domain.Tokens(10), l.Remaining(r.States[0]), "less than nothing cannot be used")
	assert.Equal(t, []domain.Tokens{10}, b.remaining(key("a"), l))
	assert.Equal(t, domain.Allowed, b.take(key("a"), 10, l))
	assert.Equal(t, domain.Denied, b.take(key("a"), 1, l))

	b.do(domain.OpRefund, key("new"), 5, l)
	assert.Equal(t, []domain.Tokens{10}, b.remaining(key("new"), l))
	assert.False(t, b.Holds(key("new")), "an unused quota need not be stored")
}

func quotaDebt(t *testing.T, h Harness) {
	b, l := h.bench(t), quota(t, "daily", 10, "day")
	b.toPeriod(l, time.Hour)
	r := b.do(domain.OpCharge, key("a"), domain.MaxCost, l)
	assert.Equal(t, domain.Allowed, r.Verdict)
	assert.Equal(t, 10-domain.MaxCost, l.Remaining(r.States[0]))
	r = b.do(domain.OpTake, key("a"), 1, l)
	assert.Equal(t, domain.Denied, r.Verdict)
	assert.Equal(t, 23*time.Hour, l.RetryAfter(r.States[0], 1, 0, r.Now))
	b.do(domain.OpRefund, key("a"), domain.MaxCost-4, l)
	assert.Equal(t, []domain.Tokens{6}, b.remaining(key("a"), l))
	b.do(domain.OpCharge, key("a"), 7, l)
	b.toPeriod(l, 0)
	assert.Equal(t, []domain.Tokens{10}, b.remaining(key("a"), l), "a debt ends with its period")
}

func mixedKinds(t *testing.T, h Harness) {
	b := h.bench(t)
	bucket, daily := limit(t, "burst", "1/h", 4), quota(t, "daily", 6, "day")
	b.toPeriod(daily, time.Hour)
	for _, limits := range [][]domain.Limit{{bucket, daily}, {daily, bucket}} {
		k := key("order-" + limits[0].Name())
		left := func() map[string]domain.Tokens {
			n := b.remaining(k, limits...)
			return map[string]domain.Tokens{limits[0].Name(): n[0], limits[1].Name(): n[1]}
		}
		require.Equal(t, domain.Allowed, b.take(k, 3, limits...))
		require.Equal(t, domain.Denied, b.take(k, 2, limits...), "the bucket has 1")
		assert.Equal(t, map[string]domain.Tokens{"burst": 1, "daily": 3}, left())
		b.do(domain.OpRefund, k, 1, bucket)
		b.do(domain.OpCharge, k, 2, daily)
		require.Equal(t, domain.Denied, b.take(k, 2, limits...), "the quota has 1")
		assert.Equal(t, map[string]domain.Tokens{"burst": 2, "daily": 1}, left())
		require.Equal(t, domain.Allowed, b.take(k, 1, limits...))
		assert.Equal(t, map[string]domain.Tokens{"burst": 1, "daily": 0}, left())
	}
	slow := limit(t, "slow", "1/24h", 1)
	require.Equal(t, domain.DebtExceeded, b.do(domain.OpCharge, key("debt"), 100*365+2, daily, slow).Verdict)
	assert.Equal(t, []domain.Tokens{6, 1}, b.remaining(key("debt"), daily, slow), "the bucket refused the charge for both")
}

func takenBeforeThePeriod(t *testing.T, h Harness) {
	b := h.bench(t)
	bucket, daily := limit(t, "burst", "1/8760h", 10), quota(t, "daily", 10, "day")
	b.toPeriod(daily, 0)
	taken := b.do(domain.OpTake, key("a"), 4, bucket, daily).Now
	b.toPeriod(daily, -time.Microsecond)
	apply := func(op domain.Op, cost domain.Tokens, takenAt domain.Instant) []domain.Tokens {
		r := ports.Take(t.Context(), b.Store, ports.TakeRequest{
			Op: op, Key: key("a"), Limits: []domain.Limit{bucket, daily}, Cost: cost, TakenAt: takenAt,
		})
		require.NoError(t, r.Err)
		require.Equal(t, domain.Allowed, r.Verdict)
		left := b.remaining(key("a"), bucket, daily)
		assert.Equal(t, left[0], bucket.Remaining(r.States[0]), "the answer is what is stored")
		assert.Equal(t, left[1], daily.Remaining(r.States[1]), "the answer is what is stored")
		return left
	}
	assert.Equal(t, []domain.Tokens{7, 7}, apply(domain.OpRefund, 1, taken), "the period of the take has not ended")
	b.Advance(time.Microsecond)
	assert.Equal(t, []domain.Tokens{9, 10}, apply(domain.OpRefund, 2, taken), "what was used is forgotten")
	assert.Equal(t, []domain.Tokens{7, 10}, apply(domain.OpCharge, 2, taken))
	now := b.do(domain.OpTake, key("a"), 5, daily).Now
	assert.Equal(t, []domain.Tokens{8, 5}, apply(domain.OpUndo, 1, now-1), "a microsecond before the period")
	assert.Equal(t, []domain.Tokens{9, 6}, apply(domain.OpUndo, 1, now), "in its first microsecond")
	assert.Equal(t, []domain.Tokens{5, 2}, apply(domain.OpCharge, 4, now))
	assert.Equal(t, []domain.Tokens{6, 3}, apply(domain.OpRefund, 1, 0), "0 means now")
	assert.Equal(t, []domain.Tokens{7, 4}, apply(domain.OpRefund, 1, now.Add(time.Hour)), "taken before the clock went back")
}

func quotaReset(t *testing.T, h Harness) {
	b := h.bench(t)
	daily, monthly := quota(t, "daily", 10, "day"), quota(t, "monthly", 100, "month")
	b.take(key("a"), 7, daily, monthly)
	r := b.do(domain.OpReset, key("a"), 0, daily)
	assert.Equal(t, domain.Tokens(10), daily.Remaining(r.States[0]))
	assert.Equal(t, []domain.Tokens{10, 93}, b.remaining(key("a"), daily, monthly), "a limit that was not named stays")
	b.do(domain.OpReset, key("a"), 0, monthly)
	assert.False(t, b.Holds(key("a")), "nothing is left to keep")
}

func changedQuota(t *testing.T, h Harness) {
	b := h.bench(t)
	day := quota(t, "limit", 10, "day")
	b.toPeriod(day, 5*time.Hour+59*time.Minute)
	b.take(key("a"), 8, day)
	hour, larger, smaller := quota(t, "limit", 10, "hour"), quota(t, "limit", 20, "day"), quota(t, "limit", 5, "day")
	assert.Equal(t, []domain.Tokens{12}, b.remaining(key("a"), larger))
	assert.Equal(t, []domain.Tokens{-3}, b.remaining(key("a"), smaller), "what was used stays")
	assert.Equal(t, []domain.Tokens{2}, b.remaining(key("a"), hour), "the new period has begun before the take")
	shifted := quota(t, "limit", 10, "24h", "", "2026-01-01T05:00:00Z")
	assert.Equal(t, []domain.Tokens{2}, b.remaining(key("a"), shifted))
	b.take(key("both"), 3, day)
	b.Advance(time.Minute)
	assert.Equal(t, []domain.Tokens{10}, b.remaining(key("a"), hour), "it was used before the new period")
	assert.Equal(t, []domain.Tokens{2}, b.remaining(key("a"), day))
	assert.Equal(t, domain.Allowed, b.take(key("a"), 10, hour))
	assert.Equal(t, domain.Denied, b.take(key("a"), 1, hour))
	b.take(key("both"), 4, day)
	assert.Equal(t, []domain.Tokens{3}, b.remaining(key("both"), hour), "all counts if some was used in the new period")
}

// A store keeps what was used until the end of the period in which it was written. Documents state what that can cost.
func longerQuota(t *testing.T, h Harness) {
	b := h.bench(t)
	short, long := quota(t, "limit", 10, "10s"), quota(t, "limit", 10, "15s")
	b.toPeriod(quota(t, "clock", 1, "30s"), 0)
	for _, name := range []string{"takes", "refunds", "denied"} {
		b.take(key(name), 8, short)
	}
	require.Equal(t, domain.Allowed, b.take(key("takes"), 1, long))
	b.do(domain.OpRefund, key("refunds"), 1, long)
	require.Equal(t, domain.Denied, b.take(key("denied"), 3, long), "what was used counts")
	b.Advance(10*time.Second + time.Millisecond + h.Spare)
	assert.Equal(t, []domain.Tokens{1}, b.remaining(key("takes"), long))
	assert.Equal(t, []domain.Tokens{3}, b.remaining(key("refunds"), long))
	assert.True(t, b.Holds(key("takes")))
	assert.True(t, b.Holds(key("refunds")))
	assert.False(t, b.Holds(key("denied")), "a denial writes nothing")
}

// A bucket holds what is left and a quota what was used, so neither may be read as the other.
func changedKind(t *testing.T, h Harness) {
	b := h.bench(t)
	bucket, daily := limit(t, "limit", "1000000/s", 1_000_000), quota(t, "limit", 1_000_000, "day")
	b.take(key("a"), 400_000, bucket)
	assert.Equal(t, []domain.Tokens{1_000_000}, b.remaining(key("a"), daily), "a limit of another kind starts anew")
	require.Equal(t, domain.Allowed, b.take(key("a"), 1_000_000, daily))
	assert.Equal(t, domain.Denied, b.take(key("a"), 1, daily))
	b.take(key("b"), 300_000, daily)
	assert.Equal(t, []domain.Tokens{1_000_000}, b.remaining(key("b"), bucket))
}

func quotaClockSetBack(t *testing.T, h Harness) {
	b, l := h.bench(t), quota(t, "daily", 5, "day")
	b.toPeriod(l, time.Hour)
	b.drain(key("asks"), l)
	b.drain(key("waits"), l)
	b.take(key("partial"), 2, l)
	b.Advance(-2 * time.Hour)
	assert.Equal(t, []domain.Tokens{3}, b.remaining(key("partial"), l), "what was used later counts")
	r := b.do(domain.OpTake, key("asks"), 1, l)
	assert.Equal(t, domain.Denied, r.Verdict)
	assert.Equal(t, time.Hour, l.RetryAfter(r.States[0], 1, 0, r.Now))
	b.Advance(time.Hour)
	assert.Equal(t, domain.Allowed, b.take(key("asks"), 5, l), "the denial set the time of the use back")
	assert.Equal(t, domain.Denied, b.take(key("asks"), 1, l))
	assert.Equal(t, domain.Denied, b.take(key("waits"), 1, l), "this client did not ask meanwhile")
	b.Advance(24 * time.Hour)
	assert.Equal(t, domain.Allowed, b.take(key("waits"), 5, l), "it waits for a period at most")
}

func idleQuotaVanishes(t *testing.T, h Harness) {
	b := h.bench(t)
	bucket, short, long := limit(t, "bucket", "1/s", 10), quota(t, "short", 10, "10s"), quota(t, "long", 10, "15s")
	b.toPeriod(quota(t, "clock", 1, "30s"), 0)
	b.take(key("short"), 1, bucket, short)
	b.take(key("both"), 1, short, long)
	b.Advance(10*time.Second - time.Millisecond)
	for _, k := range []clientkey.BucketKey{key("short"), key("both")} {
		assert.True(t, b.Holds(k), "%s: the period has not ended", k)
	}
	b.Advance(2*time.Millisecond + h.Spare)
	assert.False(t, b.Holds(key("short")), "the period has ended")
	assert.True(t, b.Holds(key("both")), "a group is kept until its last period ends")
	b.Advance(5 * time.Second)
	assert.False(t, b.Holds(key("both")))
}
