package domain_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// waitStep is a take of a story about a bucket, by a request that may wait.
type waitStep struct {
	at      time.Duration // since t0
	cost    domain.Tokens
	maxWait time.Duration
	want    domain.Verdict
	wait    time.Duration // of what passed, else RetryAfter
	left    domain.Tokens
}

func playWaits(t *testing.T, l domain.Limit, story []waitStep) {
	t.Helper()
	g := newGroup(l)
	for i, s := range story {
		now := t0.Add(s.at)
		verdict, states, _ := g.do(domain.Operation{Op: domain.OpTake, Cost: s.cost, MaxWait: s.maxWait}, now)
		wait := l.Wait(states[0], now)
		if verdict == domain.Denied {
			wait = l.RetryAfter(states[0], s.cost, s.maxWait, now)
		}
		got := waitStep{s.at, s.cost, s.maxWait, verdict, wait, l.Remaining(states[0])}
		require.Equal(t, s, got, "step %d", i)
	}
}

func TestTake_borrowsFromTheRefillOfItsWait(t *testing.T) {
	const yes, no = domain.Allowed, domain.Denied
	playWaits(t, mustLimit(t, "5/s", 3), []waitStep{
		{0, 2, 0, yes, 0, 1},
		{0, 2, 0, no, 200 * ms, 1},
		{0, 2, 200*ms - us, no, us, 1},
		{0, 2, 200 * ms, yes, 200 * ms, -1},
		{0, 1, 0, no, 400 * ms, -1},
		{0, 1, 399 * ms, no, ms, -1},
		{0, 1, time.Second, yes, 400 * ms, -2},
		{100 * ms, 1, 500 * ms, yes, 500 * ms, -3}, // at -1.5 before
		{100 * ms, 3, time.Second, no, 100 * ms, -3},
		{200*ms - us, 3, time.Second, no, us, -3},
		{200 * ms, 3, time.Second, yes, time.Second, -5},
		{1200 * ms, 1, 200 * ms, yes, 200 * ms, -1},
		{1400 * ms, 1, 200 * ms, yes, 200 * ms, -1},
		{2200 * ms, 4, time.Hour, no, domain.Never, 3}, // a wait does not make the bucket larger
		{2200 * ms, 3, time.Hour, yes, 0, 0},
	})
	l := mustCost(t, mustLimit(t, "5/s", 3), 2)
	playWaits(t, l, []waitStep{
		{0, 1, 0, yes, 0, 1},
		{0, 99, 200 * ms, yes, 200 * ms, -1},
		{0, 1, 200 * ms, no, 400 * ms, -1},
	})
}

func TestTake_borrowsWholeTicks(t *testing.T) {
	l := mustLimit(t, "7/s", 10_000_000_000) // too large to be counted in microseconds
	require.Equal(t, int64(1000), l.TokenBucket().TickMicros())
	g := newGroup(l)
	for range 10 {
		g.apply(domain.OpCharge, 1_000_000_000, t0)
	}
	take := func(maxWait time.Duration, now domain.Instant) (verdict domain.Verdict, retry, wait time.Duration) {
		verdict, states, _ := g.do(domain.Operation{Op: domain.OpTake, Cost: 1, MaxWait: maxWait}, now)
		return verdict, l.RetryAfter(states[0], 1, maxWait, now), l.Wait(states[0], now)
	}
	verdict, retry, _ := take(143*ms-us, t0) // a token comes in 142.86 ms
	assert.Equal(t, domain.Denied, verdict)
	assert.Equal(t, ms, retry)
	verdict, _, _ = take(143*ms-us, t0.Add(ms-us))
	assert.Equal(t, domain.Denied, verdict, "a microsecond early")
	verdict, _, wait := take(143*ms-us, t0.Add(ms+us))
	assert.Equal(t, domain.Allowed, verdict)
	assert.Equal(t, 142*ms-us, wait, "until the tick in which the token comes")
}

// What a bucket lends is bounded as a debt is, so that no product passes 2^53.
func TestTake_borrowsAtMostTheLargestDebt(t *testing.T) {
	for _, c := range []struct {
		rate     string
		capacity domain.Tokens
		charged  []domain.Tokens // up to the largest debt
	}{
		{"1/876000h", 1, []domain.Tokens{2}},
		{"1000000000000/us", domain.MaxTokens, nil}, // an hour refills more than 2^52
	} {
		l := mustLimit(t, c.rate, c.capacity)
		g := newGroup(l)
		for _, cost := range c.charged {
			g.apply(domain.OpCharge, cost, t0)
		}
		for range 10_000 {
			verdict, states, _ := g.do(domain.Operation{Op: domain.OpTake, Cost: 1, MaxWait: 2 * domain.MaxFill}, t0)
			require.GreaterOrEqual(t, states[0].Amount, -domain.MaxCredits, c.rate)
			if verdict == domain.Denied {
				break
			}
		}
	}
}

func TestTake_quotasAndPermitsLendNothing(t *testing.T) {
	for _, last := range []domain.Limit{mustQuota(t, 1), mustConcurrency(t, 1)} {
		g := newGroup(mustLimit(t, "5/s", 3), last)
		take := func(permit string) (domain.Verdict, []domain.State) {
			verdict, states, _ := g.do(domain.Operation{Op: domain.OpTake, Cost: 1, MaxWait: time.Hour, Permit: permit}, t0)
			return verdict, states
		}
		verdict, _ := take("a")
		require.Equal(t, domain.Allowed, verdict)
		verdict, states := take("b")
		assert.Equal(t, domain.Denied, verdict)
		assert.Equal(t, domain.Tokens(2), g.limits[0].Remaining(states[0]), "the bucket lends nothing then")
		assert.Zero(t, last.Wait(states[1], t0))
	}
}

func TestApply_onlyTakesWait(t *testing.T) {
	l := mustLimit(t, "5/s", 3)
	for _, op := range []domain.Op{domain.OpPeek, domain.OpRefund, domain.OpCharge, domain.OpUndo, domain.OpReset, domain.OpList} {
		with, without := newGroup(l), newGroup(l)
		for i, g := range []*group{with, without} {
			g.apply(domain.OpTake, 3, t0)
			g.do(domain.Operation{Op: op, Cost: 1, MaxWait: time.Duration(i) * time.Hour}, t0)
		}
		assert.Equal(t, without.stored, with.stored, op)
	}
}

// served is a take that passed: when it was decided and when its wait ended, as microseconds of a clock that never goes back.
type served struct {
	decided, at int64
	spending
}

// The invariants of waiting, under a clock that goes both ways. Takes are served in the order in which they are decided. A take
// counts when it is served: by that, admitted <= capacity + refill * elapsed / per. Waits are rounded up to a tick, so a window
// that begins with the end of a wait may be a tick shorter than it was before it was rounded.
func TestTake_waitsKeepTheLimitInEveryWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit().Draw(t, "limit")
		g := newGroup(l)
		now, elapsed := t0, int64(0)
		var passed []served
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			move := drawMove(t, &l, g.stored[0], now)
			now, elapsed = now.Add(move), elapsed+max(0, move.Microseconds())
			op := domain.Operation{
				Op:      rapid.SampledFrom([]domain.Op{domain.OpTake, domain.OpTake, domain.OpTake, domain.OpCharge}).Draw(t, "op"),
				Cost:    domain.Tokens(rapid.Int64Range(1, min(int64(l.Capacity()), int64(domain.MaxCost))).Draw(t, "cost")),
				MaxWait: drawMaxWait().Draw(t, "max wait"),
			}
			verdict, states, _ := g.do(op, now)
			if op.Op == domain.OpCharge {
				continue
			}
			if verdict == domain.Denied {
				requireRetryIsExact(t, g, op, states[0], now)
				continue
			}
			wait := requireWait(t, &l, states[0], op.MaxWait, now)
			passed = append(passed, served{elapsed, elapsed + wait.Microseconds(), spending{tokens: whole(op.Cost)}})
		}
		requireServed(t, &l, passed)
	})
}

// requireWait checks the wait of a take that left a state, and returns it.
func requireWait(t require.TestingT, l *domain.Limit, after domain.State, maxWait time.Duration, now domain.Instant) time.Duration {
	wait := l.Wait(after, now)
	require.LessOrEqual(t, wait, maxWait)
	require.GreaterOrEqual(t, wait, time.Duration(0))
	require.GreaterOrEqual(t, l.Current(after, now.Add(wait)).Amount, domain.Credits(0), "nothing is borrowed any more")
	if wait > 0 {
		require.Negative(t, l.Current(after, now.Add(wait-us)).Amount, "a microsecond early")
	}
	return wait
}

// requireRetryIsExact checks that a lone client is admitted after the wait that its denial said, and no earlier.
func requireRetryIsExact(t require.TestingT, g *group, op domain.Operation, denied domain.State, now domain.Instant) {
	retry := g.limits[0].RetryAfter(denied, op.Cost, op.MaxWait, now)
	require.Positive(t, retry)
	for wait, want := range map[time.Duration]domain.Verdict{retry - us: domain.Denied, retry: domain.Allowed} {
		later := newGroup(g.limits...)
		later.stored[0] = g.stored[0]
		verdict, _, _ := later.do(op, now.Add(wait))
		require.Equal(t, want, verdict, "after %s of %s", wait, retry)
	}
}

func requireServed(t require.TestingT, l *domain.Limit, passed []served) {
	tick := l.TokenBucket().TickMicros()
	for from := range passed {
		admitted := new(big.Rat)
		rounded := min(passed[from].at-passed[from].decided, 1) * tick
		for to := from; to < len(passed); to++ {
			require.GreaterOrEqual(t, passed[to].at, passed[max(from, to-1)].at, "takes %d and %d of %v", to-1, to, passed)
			admitted.Add(admitted, passed[to].tokens)
			bound := boundOf(l, passed[to].at-passed[from].at+rounded+tick-1)
			require.LessOrEqual(t, admitted.Cmp(bound), 0, "%s: %s admitted, bound %s, takes %d to %d of %v",
				l.String(), admitted, bound, from, to, passed)
		}
	}
}

// With refunds, what is refunded while others wait makes place at once, before they are served. So a window then begins with
// the decision of its first take, and ends when its last one is served.
func TestTake_waitsAndRefundsKeepTheLimitInEveryWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit().Draw(t, "limit")
		g := newGroup(l)
		elapsed := int64(0)
		var passed []served
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			elapsed += max(0, drawMove(t, &l, g.stored[0], t0.Add(time.Duration(elapsed)*us)).Microseconds())
			now := t0.Add(time.Duration(elapsed) * us)
			op := domain.Operation{
				Op:      rapid.SampledFrom([]domain.Op{domain.OpTake, domain.OpTake, domain.OpTake, domain.OpRefund}).Draw(t, "op"),
				Cost:    domain.Tokens(rapid.Int64Range(1, min(int64(l.Capacity()), int64(domain.MaxCost))).Draw(t, "cost")),
				MaxWait: drawMaxWait().Draw(t, "max wait"),
			}
			before := l.Current(g.stored[0], now)
			verdict, states, _ := g.do(op, now)
			if verdict == domain.Denied {
				continue
			}
			fell := big.NewRat(int64(before.Amount-states[0].Amount), int64(l.TokenBucket().TokenCredits()))
			passed = append(passed, served{elapsed, elapsed + l.Wait(states[0], now).Microseconds(), spending{tokens: fell}})
		}
		tick := l.TokenBucket().TickMicros()
		for from := range passed {
			admitted := new(big.Rat)
			for to := from; to < len(passed); to++ {
				admitted.Add(admitted, passed[to].tokens)
				bound := boundOf(&l, passed[to].at-passed[from].decided+tick-1)
				require.LessOrEqual(t, admitted.Cmp(bound), 0, "takes %d to %d of %v", from, to, passed)
			}
		}
	})
}

// boundOf returns capacity + refill * elapsed / per, for the whole ticks in a number of microseconds.
func boundOf(l *domain.Limit, elapsed int64) *big.Rat {
	refill, per := l.TokenBucket().Rate()
	tick := l.TokenBucket().TickMicros()
	bound := big.NewRat(int64(refill), int64(per/us))
	bound.Mul(bound, big.NewRat(elapsed/tick*tick, 1))
	return bound.Add(bound, big.NewRat(int64(l.Capacity()), 1))
}

// The check must find one token too many, one wait too short and one overtaking, else it proves nothing.
func TestRequireServed_findsEachBreach(t *testing.T) {
	l := mustLimit(t, "5/s", 3)
	take := func(decided, at int64, cost domain.Tokens) served {
		return served{decided, at, spending{tokens: whole(cost)}}
	}
	exact := []served{take(0, 0, 3), take(0, 200_000, 1), take(0, 400_000, 1), take(0, 1_000_000, 3)}
	requireServed(t, &l, exact)
	for _, c := range [][]served{
		{exact[0], exact[1], exact[2], take(0, 999_999, 3)},
		{exact[0], exact[1], take(0, 400_000, 2)},
		{exact[0], exact[1], exact[2], exact[3], take(1_000_000, 1_000_000, 1)},
		{exact[0], exact[2], exact[1]},
	} {
		var seen recorder
		requireServed(&seen, &l, c)
		assert.True(t, seen.failed, "%v", c)
	}
}
