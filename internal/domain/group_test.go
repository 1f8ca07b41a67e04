package domain_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// t0 is where the stories begin.
const t0 domain.Instant = 1_700_000_000_000_000

// mustLimit makes a limit named "l".
func mustLimit(tb testing.TB, rate string, capacity domain.Tokens) domain.Limit {
	tb.Helper()
	refill, per, err := domain.ParseRate(rate)
	require.NoError(tb, err)
	l, err := domain.NewLimit("l", capacity, refill, per)
	require.NoError(tb, err)
	return l
}

// group keeps the buckets of one client as a store does: it replaces them only when it is told to write.
type group struct {
	limits []domain.Limit
	stored []domain.Bucket
}

func newGroup(limits ...domain.Limit) *group {
	return &group{limits: limits, stored: make([]domain.Bucket, len(limits))}
}

// apply returns the buckets as seen at now, after the operation, and whether they were written.
func (g *group) apply(op domain.Op, cost domain.Tokens, now domain.Instant) (domain.Verdict, []domain.Bucket, bool) {
	buckets := slices.Clone(g.stored)
	verdict, write := domain.Apply(op, cost, g.limits, buckets, now)
	switch {
	case op == domain.OpReset:
		clear(g.stored)
	case write:
		copy(g.stored, buckets)
	}
	return verdict, buckets, write
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
func tell(t *testing.T, l domain.Limit, story []step) {
	t.Helper()
	g := newGroup(l)
	for i, s := range story {
		now := t0.Add(s.at)
		verdict, buckets, _ := g.apply(s.op, s.cost, now)
		got := answer{verdict: verdict, left: l.Remaining(buckets[0])}
		if verdict == domain.Denied {
			got.retry = l.RetryAfter(buckets[0], s.cost, now)
		}
		require.Equalf(t, s.want, got, "step %d: %s %d at %s", i, s.op, s.cost, s.at)
	}
}
