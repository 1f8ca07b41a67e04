package domain_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

// t0 is where the stories begin.
const t0 domain.Instant = 1_700_000_000_000_000

// mustLimit makes a limit named "l".
func mustLimit(tb testing.TB, rate string, capacity domain.Tokens) domain.Limit {
	tb.Helper()
	refill, per, err := domain.ParseRate(rate)
	require.NoError(tb, err)
	l, err := domain.NewBucket("l", capacity, refill, per)
	require.NoError(tb, err)
	return l
}

// mustQuota makes a quota named "q", whose periods are hours from t0.
func mustQuota(tb testing.TB, size domain.Tokens) domain.Limit {
	tb.Helper()
	hours, err := calendar.Parse("1h", "", t0.Time().Format(time.RFC3339))
	require.NoError(tb, err)
	l, err := domain.NewQuota("q", size, hours)
	require.NoError(tb, err)
	return l
}

func mustCost(tb testing.TB, l domain.Limit, cost domain.Tokens) domain.Limit {
	tb.Helper()
	l, err := l.WithCost(cost)
	require.NoError(tb, err)
	return l
}

// mustConcurrency makes a limit named "f", whose lease is a minute.
func mustConcurrency(tb testing.TB, n domain.Tokens) domain.Limit {
	tb.Helper()
	l, err := domain.NewConcurrency("f", n, time.Minute)
	require.NoError(tb, err)
	return l
}

// group keeps the states of one client as a store does: it replaces them only when write is true.
type group struct {
	limits  []domain.Limit
	stored  []domain.State
	permits []*domain.Permits // of the limits that have them
}

func newGroup(limits ...domain.Limit) *group {
	g := &group{limits: limits, stored: make([]domain.State, len(limits)), permits: make([]*domain.Permits, len(limits))}
	for i := range limits {
		if limits[i].Kind() == domain.KindConcurrency {
			g.permits[i] = new(domain.Permits)
		}
	}
	return g
}

// apply returns the states at now, after the operation, and whether they were written.
func (g *group) apply(op domain.Op, cost domain.Tokens, now domain.Instant) (domain.Verdict, []domain.State, bool) {
	return g.applyTaken(op, cost, 0, now)
}

func (g *group) applyTaken(op domain.Op, cost domain.Tokens, takenAt, now domain.Instant) (domain.Verdict, []domain.State, bool) {
	return g.do(domain.Operation{Op: op, Cost: cost, TakenAt: takenAt}, now)
}

func (g *group) do(op domain.Operation, now domain.Instant) (domain.Verdict, []domain.State, bool) {
	states := slices.Clone(g.stored)
	verdict, write := domain.Apply(op, g.limits, states, g.permits, now)
	switch {
	case op.Op == domain.OpReset:
		clear(g.stored)
	case write:
		copy(g.stored, states)
	}
	return verdict, states, write
}

// applyHeld is do for limits without permits. For a release, another limit holds a permit.
func (g *group) applyHeld(op domain.Operation, now domain.Instant) (domain.Verdict, []domain.State, bool) {
	if op.Op != domain.OpRelease {
		return g.do(op, now)
	}
	n := len(g.limits)
	holder, _ := domain.NewConcurrency("held", 1, domain.MinLease)
	with := newGroup(append(slices.Clone(g.limits), holder)...)
	copy(with.stored, g.stored)
	op.Permit = "p"
	domain.Apply(domain.Operation{Op: domain.OpTake, Cost: 1, Permit: "p"}, with.limits[n:], make([]domain.State, 1), with.permits[n:], now)
	verdict, states, write := with.do(op, now)
	copy(g.stored, with.stored)
	return verdict, states[:n], write
}

// step is one operation of a story about a bucket, and its answer.
type step struct {
	at   time.Duration // since t0
	op   domain.Op
	cost domain.Tokens
	want answer
}

type answer struct {
	verdict domain.Verdict
	left    domain.Tokens // Remaining, after the operation
	retry   time.Duration // RetryAfter of what was denied
}

func allowed(left domain.Tokens) answer { return answer{verdict: domain.Allowed, left: left} }

func denied(left domain.Tokens, retry time.Duration) answer {
	return answer{verdict: domain.Denied, left: left, retry: retry}
}

func refused(left domain.Tokens) answer { return answer{verdict: domain.DebtExceeded, left: left} }

// tell plays a story on one new bucket.
func playStory(t *testing.T, l domain.Limit, story []step) {
	t.Helper()
	g := newGroup(l)
	for i, s := range story {
		now := t0.Add(s.at)
		verdict, buckets, _ := g.apply(s.op, s.cost, now)
		got := answer{verdict: verdict, left: l.Remaining(buckets[0])}
		if verdict == domain.Denied {
			got.retry = l.RetryAfter(buckets[0], s.cost, 0, now)
		}
		require.Equalf(t, s.want, got, "step %d: %s %d at %s", i, s.op, s.cost, s.at)
	}
}
