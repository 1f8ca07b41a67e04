package porttest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const lease = time.Minute

// concurrent makes a concurrency limit whose lease is a minute.
func concurrent(t *testing.T, name string, n domain.Tokens) domain.Limit {
	t.Helper()
	return leased(t, name, n, lease)
}

func leased(t *testing.T, name string, n domain.Tokens, lease time.Duration) domain.Limit {
	t.Helper()
	l, err := domain.NewConcurrency(name, n, lease)
	require.NoError(t, err)
	return l
}

// ask carries out one operation, which must not fail.
func (b *bench) ask(req ports.TakeRequest) ports.TakeResult {
	b.t.Helper()
	r := ports.Take(b.t.Context(), b.Store, req)
	require.NoError(b.t, r.Err)
	require.Len(b.t, r.States, len(req.Limits))
	return r
}

// hold takes one token with a permit, and returns the verdict.
func (b *bench) hold(k clientkey.BucketKey, permit string, limits ...domain.Limit) domain.Verdict {
	b.t.Helper()
	return b.ask(ports.TakeRequest{Op: domain.OpTake, Key: k, Limits: limits, Cost: 1, Permit: permit}).Verdict
}

// release ends a permit, settles nothing, and returns the verdict.
func (b *bench) release(k clientkey.BucketKey, permit string, limits ...domain.Limit) domain.Verdict {
	b.t.Helper()
	return b.ask(ports.TakeRequest{Op: domain.OpRelease, Key: k, Limits: limits, Permit: permit}).Verdict
}

func (b *bench) renew(k clientkey.BucketKey, permit string, limits ...domain.Limit) domain.Verdict {
	b.t.Helper()
	return b.ask(ports.TakeRequest{Op: domain.OpRenew, Key: k, Limits: limits, Permit: permit}).Verdict
}

func permitsAreBounded(t *testing.T, h Harness) {
	b, l := h.bench(t), concurrent(t, "parallel", 3)
	for i := range 3 {
		r := b.ask(ports.TakeRequest{
			Op: domain.OpTake, Key: key("a"), Limits: []domain.Limit{l}, Cost: domain.MaxCost, Permit: fmt.Sprint("p", i),
		})
		require.Equal(t, domain.Allowed, r.Verdict, "take %d of 3, whatever it costs", i+1)
		assert.Equal(t, domain.Tokens(2-i), l.Remaining(r.States[0]))
		assert.Equal(t, lease-time.Duration(i)*time.Second, l.ResetAfter(r.States[0], r.Now), "until the first expires")
		b.Advance(time.Second)
	}
	r := b.ask(ports.TakeRequest{Op: domain.OpTake, Key: key("a"), Limits: []domain.Limit{l}, Cost: 1, Permit: "p3"})
	assert.Equal(t, domain.Denied, r.Verdict, "the fourth of three")
	assert.Equal(t, time.Second, l.RetryAfter(r.States[0], 1, 0, r.Now))
	assert.Equal(t, domain.Allowed, b.hold(key("b"), "p0", l), "another client")

	assert.Equal(t, []domain.Tokens{-2}, b.remaining(key("a"), concurrent(t, "parallel", 1)), "those held stay when the limit falls")
	assert.Equal(t, domain.Allowed, b.hold(key("a"), "p4", concurrent(t, "parallel", 4)), "and when it rises")
	assert.Equal(t, []domain.Tokens{3}, b.remaining(key("a"), concurrent(t, "other", 3)), "another limit")
}

func releaseFrees(t *testing.T, h Harness) {
	b, l := h.bench(t), concurrent(t, "parallel", 2)
	b.hold(key("a"), "p0", l)
	b.hold(key("a"), "p1", l)
	require.Equal(t, domain.Denied, b.hold(key("a"), "p2", l))
	assert.Equal(t, domain.Denied, b.release(key("a"), "p2", l), "a permit that was denied is not held")
	assert.Equal(t, domain.Denied, b.release(key("b"), "p0", l), "nor is one of another client")
	assert.Equal(t, domain.Allowed, b.release(key("a"), "p0", l))
	assert.Equal(t, []domain.Tokens{1}, b.remaining(key("a"), l))
	assert.Equal(t, domain.Denied, b.release(key("a"), "p0", l), "a second release does nothing")
	assert.Equal(t, []domain.Tokens{1}, b.remaining(key("a"), l))
	assert.Equal(t, domain.Allowed, b.hold(key("a"), "p3", l))
	assert.Equal(t, domain.Denied, b.hold(key("a"), "p4", l))
}

func releaseSettles(t *testing.T, h Harness) {
	b := h.bench(t)
	tokens, requests, daily := limit(t, "tokens", "1/24h", 100), withCost(t, limit(t, "requests", "1/24h", 10), 1), quota(t, "daily", 100, "day")
	all := []domain.Limit{tokens, requests, concurrent(t, "parallel", 2), daily}
	b.toPeriod(daily, time.Hour)
	take := func(permit string) domain.Instant {
		r := b.ask(ports.TakeRequest{Op: domain.OpTake, Key: key("a"), Limits: all, Cost: 10, Permit: permit})
		require.Equal(t, domain.Allowed, r.Verdict)
		return r.Now
	}
	settle := func(permit string, cost domain.Tokens, takenAt domain.Instant) domain.Verdict {
		return b.ask(ports.TakeRequest{Op: domain.OpRelease, Key: key("a"), Limits: all, Cost: cost, TakenAt: takenAt, Permit: permit}).Verdict
	}
	take("less")
	require.Equal(t, []domain.Tokens{90, 9, 1, 90}, b.remaining(key("a"), all...))
	for _, want := range []domain.Verdict{domain.Allowed, domain.Denied} {
		assert.Equal(t, want, settle("less", -4, 0))
		assert.Equal(t, []domain.Tokens{94, 9, 2, 94}, b.remaining(key("a"), all...), "6 of 10 were needed, and that is settled once")
	}
	taken := take("more")
	for _, want := range []domain.Verdict{domain.Allowed, domain.Denied} {
		assert.Equal(t, want, settle("more", 7, taken))
		assert.Equal(t, []domain.Tokens{77, 8, 2, 77}, b.remaining(key("a"), all...), "17 of 10 were needed")
	}
	take("exact")
	assert.Equal(t, domain.Allowed, settle("exact", 0, 0))
	assert.Equal(t, []domain.Tokens{67, 7, 2, 67}, b.remaining(key("a"), all...))

	take("debt")
	assert.Equal(t, domain.Allowed, settle("debt", domain.MaxCost, 0), "the permit ends, however large the cost")
	assert.Equal(t, []domain.Tokens{-100 * 365, 6, 2, 57 - domain.MaxCost}, b.remaining(key("a"), all...), "with the largest debt")

	b.do(domain.OpReset, key("a"), 0, all...)
	b.toPeriod(daily, -time.Second)
	taken = take("long")
	b.Advance(2 * time.Second)
	require.Equal(t, []domain.Tokens{90, 9, 1, 100}, b.remaining(key("a"), all...), "a new day has begun")
	assert.Equal(t, domain.Allowed, settle("long", 30, taken))
	assert.Equal(t, []domain.Tokens{60, 9, 2, 100}, b.remaining(key("a"), all...), "what was taken before it is not charged to it")
}

func leaseEnds(t *testing.T, h Harness) {
	b, l := h.bench(t), concurrent(t, "parallel", 1)
	all := []domain.Limit{l, limit(t, "tokens", "1/8760h", 10)}
	require.Equal(t, domain.Allowed, b.hold(key("a"), "p0", all...))
	b.Advance(lease - time.Microsecond)
	require.Equal(t, domain.Denied, b.hold(key("a"), "p1", all...), "a microsecond early")
	b.Advance(time.Microsecond)
	assert.Equal(t, []domain.Tokens{1, 9}, b.remaining(key("a"), all...))
	assert.Equal(t, domain.Denied, b.renew(key("a"), "p0", all...), "it has ended")
	r := b.ask(ports.TakeRequest{Op: domain.OpRelease, Key: key("a"), Limits: all, Cost: -1, Permit: "p0"})
	assert.Equal(t, domain.Denied, r.Verdict)
	assert.Equal(t, []domain.Tokens{1, 9}, b.remaining(key("a"), all...), "its release settles nothing")
	assert.Equal(t, domain.Allowed, b.hold(key("a"), "p1", all...))
	assert.Equal(t, domain.Denied, b.hold(key("a"), "p2", all...))
}

func renewExtends(t *testing.T, h Harness) {
	b, l := h.bench(t), concurrent(t, "parallel", 1)
	require.Equal(t, domain.Allowed, b.hold(key("a"), "p0", l))
	for range 3 {
		b.Advance(lease - time.Microsecond)
		r := b.ask(ports.TakeRequest{Op: domain.OpRenew, Key: key("a"), Limits: []domain.Limit{l}, Permit: "p0"})
		require.Equal(t, domain.Allowed, r.Verdict)
		assert.Equal(t, lease, l.ResetAfter(r.States[0], r.Now), "a new lease from now")
		assert.Equal(t, domain.Tokens(0), l.Remaining(r.States[0]), "and still one permit")
	}
	assert.Equal(t, domain.Denied, b.hold(key("a"), "p1", l))
	assert.Equal(t, domain.Denied, b.renew(key("a"), "p1", l), "it was never held")
	assert.Equal(t, domain.Denied, b.renew(key("b"), "p0", l), "another client's")
	assert.Equal(t, domain.Allowed, b.release(key("a"), "p0", l))
	assert.Equal(t, domain.Denied, b.renew(key("a"), "p0", l), "it was released")
	assert.Equal(t, []domain.Tokens{1}, b.remaining(key("a"), l), "and a renewal does not bring it back")
}

func permitOfTwoLimits(t *testing.T, h Harness) {
	b, tokens := h.bench(t), limit(t, "tokens", "1/8760h", 10)
	short, long := leased(t, "short", 5, 10*time.Second), leased(t, "long", 5, time.Minute)
	require.Equal(t, domain.Allowed, b.hold(key("a"), "p0", short, tokens, long))
	require.Equal(t, domain.Allowed, b.hold(key("a"), "p1", short, tokens, long))
	b.Advance(9 * time.Second)
	require.Equal(t, domain.Allowed, b.renew(key("a"), "p1", short, long))
	b.Advance(time.Second)
	require.Equal(t, []domain.Tokens{4, 3}, b.remaining(key("a"), short, long))
	assert.Equal(t, domain.Denied, b.renew(key("a"), "p0", short, long), "it must be held of both")
	b.Advance(49 * time.Second)
	assert.Equal(t, domain.Allowed, b.renew(key("a"), "p0", long), "it is held of this one")
	b.Advance(time.Second)
	assert.Equal(t, domain.Denied, b.renew(key("a"), "p1", short, long))
	r := b.ask(ports.TakeRequest{Op: domain.OpRelease, Key: key("a"), Limits: []domain.Limit{short, tokens, long}, Cost: -1, Permit: "p0"})
	assert.Equal(t, domain.Allowed, r.Verdict, "one of the two is enough to settle")
	assert.Equal(t, []domain.Tokens{5, 9, 4}, b.remaining(key("a"), short, tokens, long))
}

func peekTakesNoPermit(t *testing.T, h Harness) {
	b, l := h.bench(t), concurrent(t, "parallel", 1)
	for _, op := range []domain.Op{domain.OpPeek, domain.OpTake, domain.OpList} {
		for range 3 {
			r := b.do(op, key("a"), 0, l)
			require.Equal(t, domain.Allowed, r.Verdict, op)
			assert.Equal(t, domain.Tokens(1), l.Remaining(r.States[0]), op)
		}
	}
	require.Equal(t, domain.Allowed, b.hold(key("a"), "p0", l))
	assert.Equal(t, domain.Allowed, b.take(key("a"), 0, l), "a cost of 0 passes even when all permits are held")
}

func undoEndsThePermit(t *testing.T, h Harness) {
	b := h.bench(t)
	all := []domain.Limit{concurrent(t, "parallel", 1), limit(t, "tokens", "1/8760h", 10), withCost(t, limit(t, "requests", "1/8760h", 10), 2)}
	b.take(key("a"), 3, all[1:]...)
	require.Equal(t, domain.Allowed, b.hold(key("a"), "p0", all...))
	require.Equal(t, []domain.Tokens{0, 6, 6}, b.remaining(key("a"), all...))
	undo := ports.TakeRequest{Op: domain.OpUndo, Key: key("a"), Limits: all, Cost: 1, Permit: "none"}
	b.ask(undo)
	require.Equal(t, []domain.Tokens{0, 7, 8}, b.remaining(key("a"), all...), "tokens come back without the permit")
	undo.Permit = "p0"
	r := b.ask(undo)
	assert.Equal(t, domain.Allowed, r.Verdict)
	assert.Equal(t, domain.Tokens(1), all[0].Remaining(r.States[0]))
	assert.Equal(t, []domain.Tokens{1, 8, 10}, b.remaining(key("a"), all...))
	assert.Equal(t, domain.Denied, b.release(key("a"), "p0", all...))
}

func resetLeavesPermits(t *testing.T, h Harness) {
	b := h.bench(t)
	all := []domain.Limit{limit(t, "tokens", "1/8760h", 10), concurrent(t, "parallel", 2)}
	require.Equal(t, domain.Allowed, b.hold(key("a"), "p0", all...))
	r := b.do(domain.OpReset, key("a"), 0, all...)
	assert.Equal(t, domain.Tokens(1), all[1].Remaining(r.States[1]))
	assert.Equal(t, []domain.Tokens{10, 1}, b.remaining(key("a"), all...))
	assert.Equal(t, domain.Allowed, b.release(key("a"), "p0", all...))
	assert.Equal(t, []domain.Tokens{10, 2}, b.remaining(key("a"), all...))
}

// Neither a refund nor a charge is about permits.
func costsLeavePermits(t *testing.T, h Harness) {
	b := h.bench(t)
	all := []domain.Limit{concurrent(t, "parallel", 2), limit(t, "tokens", "1/8760h", 10)}
	require.Equal(t, domain.Allowed, b.hold(key("a"), "p0", all...))
	b.do(domain.OpCharge, key("a"), 4, all...)
	assert.Equal(t, []domain.Tokens{1, 5}, b.remaining(key("a"), all...))
	b.do(domain.OpRefund, key("a"), 2, all...)
	assert.Equal(t, []domain.Tokens{1, 7}, b.remaining(key("a"), all...))
}

func permitsAndTokens(t *testing.T, h Harness) {
	b := h.bench(t)
	parallel, tokens, daily := concurrent(t, "parallel", 2), limit(t, "tokens", "1/8760h", 3), quota(t, "year", 9, "year")
	for i, all := range [][]domain.Limit{{parallel, tokens, daily}, {tokens, daily, parallel}} {
		k := clientKey(i)
		left := func(parallel, tokens, daily domain.Tokens) []domain.Tokens {
			return [][]domain.Tokens{{parallel, tokens, daily}, {tokens, daily, parallel}}[i]
		}
		require.Equal(t, domain.Allowed, b.hold(k, "p0", all...))
		require.Equal(t, domain.Allowed, b.hold(k, "p1", all...))
		require.Equal(t, left(0, 1, 7), b.remaining(k, all...))
		assert.Equal(t, domain.Denied, b.hold(k, "p2", all...), "all permits are held")
		assert.Equal(t, left(0, 1, 7), b.remaining(k, all...), "no tokens were taken")
		require.Equal(t, domain.Allowed, b.release(k, "p0", all...))
		require.Equal(t, domain.Allowed, b.hold(k, "p3", all...))
		require.Equal(t, domain.Allowed, b.release(k, "p3", all...))
		assert.Equal(t, domain.Denied, b.hold(k, "p4", all...), "all tokens are spent")
		assert.Equal(t, left(1, 0, 6), b.remaining(k, all...), "no permit was taken")
		assert.Equal(t, domain.Denied, b.release(k, "p4", all...))
	}
}

func permitsInOneCall(t *testing.T, h Harness) {
	b, l := h.bench(t), concurrent(t, "parallel", 2)
	steps := []struct {
		op     domain.Op
		permit string
		want   domain.Verdict
		left   domain.Tokens
	}{
		{domain.OpTake, "p0", domain.Allowed, 1},
		{domain.OpTake, "p1", domain.Allowed, 0},
		{domain.OpTake, "p2", domain.Denied, 0},
		{domain.OpRelease, "p2", domain.Denied, 0},
		{domain.OpRelease, "p0", domain.Allowed, 1},
		{domain.OpRelease, "p0", domain.Denied, 1},
		{domain.OpTake, "p3", domain.Allowed, 0},
		{domain.OpRenew, "p1", domain.Allowed, 0},
		{domain.OpTake, "p4", domain.Denied, 0},
	}
	reqs := make([]ports.TakeRequest, len(steps))
	for i, s := range steps {
		reqs[i] = ports.TakeRequest{Op: s.op, Key: key("a"), Limits: []domain.Limit{l}, Permit: s.permit}
		if s.op == domain.OpTake {
			reqs[i].Cost = 1
		}
	}
	for i, r := range b.many(t.Context(), reqs) {
		require.NoError(t, r.Err)
		assert.Equal(t, steps[i].want, r.Verdict, "step %d", i)
		assert.Equal(t, steps[i].left, l.Remaining(r.States[0]), "step %d", i)
	}
}

func concurrentHolders(t *testing.T, h Harness) {
	b := h.bench(t)
	all := []domain.Limit{concurrent(t, "parallel", 7), limit(t, "tokens", "1/h", 1000)}
	const goroutines, each = 8, 50
	var held, most, passed atomic.Int64
	var done sync.WaitGroup
	for g := range goroutines {
		done.Go(func() {
			for i := range each {
				req := ports.TakeRequest{Op: domain.OpTake, Key: key("a"), Limits: all, Cost: 1, Permit: fmt.Sprintf("%d-%d", g, i)}
				take := ports.Take(t.Context(), b.Store, req)
				if !assert.NoError(t, take.Err) || take.Verdict != domain.Allowed {
					continue
				}
				passed.Add(1)
				for n := held.Add(1); ; {
					if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
						break
					}
				}
				held.Add(-1) // before it is released: the store may count more than this test, never fewer
				req.Op, req.Cost = domain.OpRelease, 0
				release := ports.Take(t.Context(), b.Store, req)
				assert.NoError(t, release.Err)
				assert.Equal(t, domain.Allowed, release.Verdict)
			}
		})
	}
	done.Wait()
	assert.LessOrEqual(t, most.Load(), int64(7))
	assert.Positive(t, passed.Load())
	assert.Equal(t, []domain.Tokens{7, 1000 - domain.Tokens(passed.Load())}, b.remaining(key("a"), all...), "every permit was released")
}

func permitsAndClockSetBack(t *testing.T, h Harness) {
	b, l := h.bench(t), concurrent(t, "parallel", 2)
	require.Equal(t, domain.Allowed, b.hold(key("a"), "renewed", l))
	require.Equal(t, domain.Allowed, b.hold(key("a"), "left", l))
	b.Advance(-time.Hour)
	require.Equal(t, domain.Denied, b.hold(key("a"), "p2", l), "both are still held")
	require.Equal(t, domain.Allowed, b.renew(key("a"), "renewed", l))
	b.Advance(lease)
	assert.Equal(t, []domain.Tokens{1}, b.remaining(key("a"), l), "a renewal counts from the new time")
	b.Advance(time.Hour - time.Microsecond)
	assert.Equal(t, []domain.Tokens{1}, b.remaining(key("a"), l))
	b.Advance(time.Microsecond)
	assert.Equal(t, []domain.Tokens{2}, b.remaining(key("a"), l), "other permits end at their own time")
}
