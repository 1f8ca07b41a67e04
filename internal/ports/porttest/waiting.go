package porttest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// takeWithin takes tokens for a request that may wait.
func (b *bench) takeWithin(maxWait time.Duration, k clientkey.BucketKey, cost domain.Tokens, limits ...domain.Limit) ports.TakeResult {
	b.t.Helper()
	return b.ask(ports.TakeRequest{Op: domain.OpTake, Key: k, Limits: limits, Cost: cost, MaxWait: maxWait, Permit: "p"})
}

func takesBorrow(t *testing.T, h Harness) {
	const maxWait = 400 * time.Millisecond
	b, l := h.bench(t), limit(t, "burst", "10/s", 3)
	for i := range 7 { // 3 are there, and 4 come within 400 ms
		r := b.takeWithin(maxWait, key("a"), 1, l)
		require.Equal(t, domain.Allowed, r.Verdict, "take %d", i)
		assert.Equal(t, domain.Tokens(2-i), l.Remaining(r.States[0]))
		assert.Equal(t, time.Duration(max(0, 100*(i-2)))*time.Millisecond, l.Wait(r.States[0], r.Now), "each waits behind the last")
	}
	r := b.takeWithin(maxWait, key("a"), 1, l)
	require.Equal(t, domain.Denied, r.Verdict, "its wait would be 500 ms")
	assert.Equal(t, 100*time.Millisecond, l.RetryAfter(r.States[0], 1, maxWait, r.Now))
	assert.Equal(t, []domain.Tokens{-4}, b.remaining(key("a"), l), "a denial spends nothing")
	assert.Equal(t, domain.Denied, b.take(key("a"), 1, l), "who does not wait borrows nothing")
	b.Advance(100*time.Millisecond - time.Microsecond)
	assert.Equal(t, domain.Denied, b.takeWithin(maxWait, key("a"), 1, l).Verdict, "a microsecond early")
	b.Advance(time.Microsecond)
	r = b.takeWithin(maxWait, key("a"), 1, l)
	assert.Equal(t, domain.Allowed, r.Verdict)
	assert.Equal(t, maxWait, l.Wait(r.States[0], r.Now))
	b.Advance(2 * maxWait)
	assert.Equal(t, []domain.Tokens{3}, b.remaining(key("a"), l), "what was borrowed is refilled, then the bucket fills")
}

// For any rate, the longest wait is max_wait at most, and RetryAfter with max_wait is exact.
func waitsAreBounded(t *testing.T, h Harness) {
	for _, rate := range []string{"5/s", "3/s", "7/m", "10000/24h", "3/250ms", "7000000/s"} {
		for _, maxWait := range []time.Duration{0, time.Microsecond, 333_333 * time.Microsecond, time.Hour} {
			b, l := h.bench(t), limit(t, "burst", rate, 100)
			b.Advance(123457 * time.Microsecond)
			b.drain(key(rate), l)
			r := b.takeWithin(maxWait, key(rate), 100, l)
			if r.Verdict == domain.Allowed {
				assert.LessOrEqual(t, l.Wait(r.States[0], r.Now), maxWait, "%s, %s", rate, maxWait)
				assert.Positive(t, l.Wait(r.States[0], r.Now), "%s, %s", rate, maxWait)
				continue
			}
			wait := l.RetryAfter(r.States[0], 100, maxWait, r.Now)
			require.Positive(t, wait, "%s, %s", rate, maxWait)
			b.Advance(wait - time.Microsecond)
			assert.Equal(t, domain.Denied, b.takeWithin(maxWait, key(rate), 100, l).Verdict, "%s, %s: a microsecond early", rate, maxWait)
			b.Advance(time.Microsecond)
			r = b.takeWithin(maxWait, key(rate), 100, l)
			assert.Equal(t, domain.Allowed, r.Verdict, "%s, %s: after %s", rate, maxWait, wait)
			assert.LessOrEqual(t, l.Wait(r.States[0], r.Now), maxWait, "%s, %s", rate, maxWait)
		}
	}
}

func onlyBucketsLend(t *testing.T, h Harness) {
	b := h.bench(t)
	bucket, slow := limit(t, "burst", "10/s", 3), limit(t, "slow", "1/h", 2)
	daily, parallel := quota(t, "each", 2, "1s"), concurrent(t, "parallel", 2)
	b.toPeriod(daily, 0)
	for i, other := range []domain.Limit{daily, parallel, slow} {
		k := clientKey(i)
		b.drain(k, bucket)
		for _, permit := range []string{"p0", "p1"} {
			require.Equal(t, domain.Allowed, b.hold(k, permit, other))
		}
		before := b.remaining(k, bucket, other)
		r := b.takeWithin(10*time.Second, k, 1, bucket, other)
		assert.Equal(t, domain.Denied, r.Verdict, "%s must pass now", other.Name())
		assert.Equal(t, before, b.remaining(k, bucket, other), "and then the bucket lends nothing")
	}
	wide := concurrent(t, "wide", 2)
	b.drain(key("both"), bucket)
	r := b.takeWithin(time.Second, key("both"), 2, wide, bucket)
	assert.Equal(t, domain.Allowed, r.Verdict)
	assert.Equal(t, 200*time.Millisecond, bucket.Wait(r.States[1], r.Now))
	assert.Zero(t, wide.Wait(r.States[0], r.Now))
	assert.Equal(t, []domain.Tokens{1, -2}, b.remaining(key("both"), wide, bucket), "a request that waits holds its permit meanwhile")

	assert.Equal(t, domain.Denied, b.takeWithin(time.Hour, key("large"), 4, bucket).Verdict, "more than the capacity passes at no time")
	assert.Equal(t, []domain.Tokens{3}, b.remaining(key("large"), bucket))
}

// Equal takes in one call may be decided as one: they wait as if they were asked one after the other.
func waitsInOneCall(t *testing.T, h Harness) {
	b, l, m := h.bench(t), limit(t, "burst", "10/s", 3), limit(t, "other", "5/s", 6)
	for _, limits := range [][]domain.Limit{{l}, {l, m}, {m, l}} {
		k := key(limits[0].Name() + limits[len(limits)-1].Name())
		reqs := make([]ports.TakeRequest, 6)
		for i := range reqs {
			reqs[i] = ports.TakeRequest{Op: domain.OpTake, Key: k, Limits: limits, Cost: 2, MaxWait: 700 * time.Millisecond}
		}
		for i, r := range b.many(t.Context(), reqs) {
			require.NoError(t, r.Err)
			passed := min(i+1, 5) // 2, 4, 6, 8 and 10 tokens: burst owes 7 tokens then, which come within 700 ms
			if len(limits) > 1 {
				passed = min(i+1, 4) // other owes 2 of the 3.5 that it lends
			}
			want := domain.Denied
			if i < passed {
				want = domain.Allowed
			}
			assert.Equal(t, want, r.Verdict, "take %d of %v", i, limits)
			for j := range limits {
				left := limits[j].Capacity() - 2*domain.Tokens(passed)
				assert.Equal(t, left, limits[j].Remaining(r.States[j]), "%s after take %d", limits[j].Name(), i)
			}
		}
	}
}

// max_wait is about takes only.
func othersDoNotWait(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "10/s", 3)
	b.drain(key("a"), l)
	for _, op := range []domain.Op{domain.OpPeek, domain.OpRefund, domain.OpCharge, domain.OpReset, domain.OpList} {
		before := b.remaining(key("a"), l)[0]
		r := b.ask(ports.TakeRequest{Op: op, Key: key("a"), Limits: []domain.Limit{l}, Cost: 1, MaxWait: time.Minute})
		assert.Equal(t, domain.Allowed, r.Verdict, op)
		want := map[domain.Op]domain.Tokens{domain.OpRefund: before + 1, domain.OpCharge: before - 1, domain.OpReset: 3}
		if changed, ok := want[op]; ok {
			before = changed
		}
		assert.Equal(t, before, l.Remaining(r.States[0]), op)
	}
}
