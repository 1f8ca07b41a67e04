package policyfile_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func quota(t *testing.T, name string, quota, cost domain.Tokens, period, zone, anchor string) domain.Limit {
	t.Helper()
	periods, err := calendar.Parse(period, zone, anchor)
	require.NoError(t, err)
	l, err := domain.NewQuota(name, quota, periods)
	require.NoError(t, err)
	if cost > 0 {
		l, err = l.WithCost(cost)
		require.NoError(t, err)
	}
	return l
}

func permits(t *testing.T, name string, concurrent domain.Tokens, lease time.Duration) domain.Limit {
	t.Helper()
	l, err := domain.NewConcurrency(name, concurrent, lease)
	require.NoError(t, err)
	return l
}

// texts returns the limits of a client as text, in the order of the policy.
func texts(p *policy.Policy, client string) []string {
	all := make([]string, len(p.Limits))
	for _, group := range p.RulesFor(client, false).Groups {
		for i := range group.Limits {
			all[group.Positions[i]] = group.Limits[i].String()
		}
	}
	return all
}

func TestParse_readsQuotasAndCostsOfLimits(t *testing.T) {
	set, err := policyfile.Load("testdata/valid/quotas.yaml", "")
	require.NoError(t, err)
	p := set.All()[0]
	assert.Equal(t, []domain.Limit{
		limit(t, "burst", "5/s", 100),
		quota(t, "daily", 1000, 2, "day", "Europe/Berlin", ""),
		quota(t, "monthly", 50_000, 0, "month", "Europe/Berlin", "2026-01-15"),
		quota(t, "quoted", 1, 0, "year", "", "2026-01-15"),
		quota(t, "times", 3, 0, "week", "Asia/Kathmandu", "2026-01-15T08:00:00.5+05:45"),
		quota(t, "hours", 10_000, 10_000, "24h", "", "2030-01-15T06:00:00Z"),
	}, p.Limits)
	assert.Equal(t, "global", p.LimitKeys["hours"].String())
}

func TestParse_anOverrideKeepsWhatItDoesNotSay(t *testing.T) {
	set, err := policyfile.Load("testdata/valid/quotas.yaml", "")
	require.NoError(t, err)
	p := set.All()[0]
	own := []string{
		"burst: 5/s, capacity 100",
		"daily: quota 1000/day in Europe/Berlin, cost 2",
		"monthly: quota 50000/month in Europe/Berlin from 2026-01-15",
		"quoted: quota 1/year from 2026-01-15",
		"times: quota 3/week in Asia/Kathmandu from 2026-01-15T08:00:00.5+05:45",
		"hours: quota 10000/24h from 2030-01-15T06:00:00Z, cost 10000",
	}
	assert.Equal(t, own, texts(p, "anyone"))
	assert.Equal(t, []string{
		"burst: 5/s, capacity 200",
		"daily: quota 5000/day in Europe/Berlin, cost 2",
		"monthly: quota 50000/month in Europe/Berlin from 2026-02-01",
		own[3], own[4], own[5],
	}, texts(p, "pro-1"))
	assert.Equal(t, []string{
		"burst: quota 10/minute",
		"daily: 1/s, capacity 5, cost 2",
		own[2] + ", cost 3",
		own[3],
		"times: quota 7/90m from 2026-01-15T08:00:00.5+05:45, cost 7",
		own[5],
	}, texts(p, "free-1"))
	assert.Equal(t, []string{
		own[0],
		"daily: quota 100/hour, cost 2",
		own[2], own[3], own[4], own[5],
	}, texts(p, "hourly"))
}

func TestParse_readsPermits(t *testing.T) {
	set, err := policyfile.Load("testdata/valid/permits.yaml", "")
	require.NoError(t, err)
	p := set.All()[0]
	assert.Equal(t, 500*time.Millisecond, p.MaxWait)
	assert.Equal(t, []domain.Limit{
		limit(t, "burst", "5/s", 10),
		permits(t, "parallel", 5, limitspec.DefaultLease),
		permits(t, "long", 1_000_000, 24*time.Hour),
		permits(t, "own", 9, 24*time.Hour),
		permits(t, "upstream", 50, 90*time.Second),
	}, p.Limits)
	assert.Equal(t, "global", p.LimitKeys["long"].String())
	shared, err := set.Shared("upstream")
	require.NoError(t, err)
	assert.Same(t, shared, p.Shared["upstream"])
	parts := []clientkey.Part{{Source: clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-org"}, Value: "acme"}}
	for _, group := range p.Groups() {
		if group.Shared != nil {
			assert.Equal(t, []domain.Limit{permits(t, "upstream", 80, 90*time.Second)}, group.LimitsFor(parts, false))
		}
	}

	own := []string{
		"burst: 5/s, capacity 10", "parallel: 5 at once, lease 1m", "long: 1000000 at once, lease 24h", "own: 9 at once, lease 24h", "upstream: 50 at once, lease 90s",
	}
	assert.Equal(t, own, texts(p, "anyone"))
	assert.Equal(t, []string{own[0], "parallel: 20 at once, lease 1m", own[2], "own: 9 at once, lease 1h", own[4]}, texts(p, "pro-1"))
	assert.Equal(t, []string{"burst: 3 at once, lease 1m", "parallel: 1/s, capacity 5, cost 2", own[2], own[3], own[4]}, texts(p, "free-1"))
	assert.Equal(t, []string{own[0], "parallel: quota 100/day", own[2], own[3], own[4]}, texts(p, "daily"))
}
