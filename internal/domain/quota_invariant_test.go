package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// requireQuota checks the invariant: in each period admitted - refunded <= quota. stays has the tokens of each stay of the
// clock in a period: if it leaves the period and comes back, a second stay begins, which may admit the quota once more.
func requireQuota(t require.TestingT, quota domain.Tokens, stays []domain.Tokens) {
	for i := range stays {
		require.LessOrEqual(t, stays[i], quota, "stay %d of %v", i, stays)
	}
}

// The check must find one token too many, else it proves nothing.
func TestRequireQuota_findsOneTokenTooMany(t *testing.T) {
	requireQuota(t, 5, []domain.Tokens{5, -3, 5})
	var seen recorder
	requireQuota(&seen, 5, []domain.Tokens{5, 0, 6})
	require.True(t, seen.failed)
}

// Takes, refunds and undoings of what was taken, on a quota and up to two other limits, under a clock that goes both ways
// over the ends of periods.
func TestApply_keepsTheQuotaInEveryPeriod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawQuota().Draw(t, "quota")
		if rapid.Bool().Draw(t, "own cost") {
			l, _ = l.WithCost(domain.Tokens(rapid.Int64Range(1, min(int64(l.Capacity()), 9)).Draw(t, "cost")))
		}
		g := newGroup(append(rapid.SliceOfN(drawAny(), 0, 2).Draw(t, "others"), l)...)
		q := len(g.limits) - 1
		now, last, stays := t0, domain.Instant(-1), []domain.Tokens(nil)
		taken := []domain.Instant{0}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			now = max(1, now.Add(drawMove(t, &l, g.stored[q], now)))
			op := rapid.SampledFrom([]domain.Op{domain.OpTake, domain.OpTake, domain.OpTake, domain.OpRefund, domain.OpUndo}).Draw(t, "op")
			cost := domain.Tokens(rapid.Int64Range(1, min(int64(l.Capacity()), 12)).Draw(t, "cost"))
			start, _, _ := l.Quota().Periods().At(now)
			if start != last {
				last, stays = start, append(stays, 0)
			}
			before := l.Current(g.stored[q], now)
			verdict, states, _ := g.applyTaken(op, cost, rapid.SampledFrom(taken).Draw(t, "taken at"), now)
			stays[len(stays)-1] += domain.Tokens(states[q].Amount - before.Amount)
			if verdict == domain.Denied {
				requireWaitIsExact(t, g, states, cost, now)
			}
			taken = append(taken, now)
		}
		requireQuota(t, l.Capacity(), stays)
	})
}

// requireWaitIsExact checks that a lone client is admitted after the wait that its denial said, and no earlier.
func requireWaitIsExact(t require.TestingT, g *group, denied []domain.State, cost domain.Tokens, now domain.Instant) {
	wait := time.Duration(0)
	for i := range g.limits {
		limitWait := g.limits[i].RetryAfter(denied[i], cost, 0, now)
		if limitWait == domain.Never {
			return
		}
		if g.limits[i].Quota() != nil {
			require.LessOrEqual(t, limitWait, g.limits[i].Window(now), "no client waits for longer than a period")
		}
		wait = max(wait, limitWait)
	}
	early := newGroup(g.limits...)
	copy(early.stored, g.stored)
	verdict, _, _ := early.apply(domain.OpTake, cost, now.Add(wait-us))
	require.Equal(t, domain.Denied, verdict, "a microsecond before %s", wait)
	verdict, _, _ = early.apply(domain.OpTake, cost, now.Add(wait))
	require.Equal(t, domain.Allowed, verdict, "after %s", wait)
}
