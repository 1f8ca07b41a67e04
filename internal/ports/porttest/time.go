package porttest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func refillIsLinear(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "5/s", 10)
	b.drain(key("a"), l)
	for _, step := range []struct {
		wait time.Duration
		want domain.Tokens
	}{
		{199 * time.Millisecond, 0},
		{time.Millisecond, 1},
		{time.Second, 6},
		{799 * time.Millisecond, 9},
		{time.Millisecond, 10},
		{time.Hour, 10},
	} {
		b.Advance(step.wait)
		assert.Equal(t, []domain.Tokens{step.want}, b.remaining(key("a"), l), "after another %v", step.wait)
	}
	require.Equal(t, domain.Allowed, b.take(key("a"), 10, l))
	assert.Equal(t, domain.Denied, b.take(key("a"), 1, l), "an hour fills no more than the capacity")
}

func fractionsAccumulate(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "thirds", "3/s", 10)
	b.drain(key("a"), l)
	admitted := 0
	for range 1000 { // 7 ms apart, and 7 ms are 0.021 of a token
		b.Advance(7 * time.Millisecond)
		if b.take(key("a"), 1, l) == domain.Allowed {
			admitted++
		}
	}
	assert.Equal(t, 21, admitted, "7 s refill 21 tokens, whatever the steps")
}

func retryAfterIsExact(t *testing.T, h Harness) {
	for _, rate := range []string{"5/s", "3/s", "7/m", "10000/24h", "3/250ms"} {
		b, l := h.bench(t), limit(t, "burst", rate, 100)
		b.Advance(123457 * time.Microsecond)
		b.drain(key(rate), l)
		r := b.do(domain.OpTake, key(rate), 3, l)
		wait := l.RetryAfter(r.States[0], 3, 0, r.Now)
		require.Positive(t, wait, rate)
		b.Advance(wait - time.Microsecond)
		assert.Equal(t, domain.Denied, b.take(key(rate), 3, l), "%s: a microsecond early", rate)
		b.Advance(time.Microsecond)
		assert.Equal(t, domain.Allowed, b.take(key(rate), 3, l), "%s: after %v", rate, wait)
	}
}

func clockSetBack(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/s", 10)
	b.drain(key("empty"), l)
	b.take(key("partial"), 4, l)
	b.Advance(-time.Hour)
	assert.Equal(t, []domain.Tokens{6}, b.remaining(key("partial"), l), "nothing is refilled")
	assert.Equal(t, domain.Denied, b.take(key("empty"), 1, l))
	b.Advance(time.Second)
	assert.Equal(t, domain.Allowed, b.take(key("empty"), 1, l), "the denial set the bucket's time back")
	b.Advance(time.Hour)
	assert.Equal(t, []domain.Tokens{10}, b.remaining(key("empty"), l), "and then it refills as usual")
}

func changedLimitConverts(t *testing.T, h Harness) {
	b := h.bench(t)
	second, day := limit(t, "burst", "5/s", 10), limit(t, "burst", "10000/24h", 10000)
	require.Equal(t, domain.Allowed, b.take(key("a"), 3, second))
	assert.Equal(t, []domain.Tokens{7}, b.remaining(key("a"), day), "a larger capacity gives no tokens")
	require.Equal(t, domain.Allowed, b.take(key("a"), 2, day))
	assert.Equal(t, []domain.Tokens{5}, b.remaining(key("a"), second), "and back")

	small := limit(t, "burst", "1/m", 2)
	assert.Equal(t, []domain.Tokens{2}, b.remaining(key("a"), small), "a smaller capacity caps")
	require.Equal(t, domain.Allowed, b.take(key("a"), 2, small))
	assert.Equal(t, domain.Denied, b.take(key("a"), 1, small))

	b.do(domain.OpCharge, key("debt"), 15, second)
	assert.Equal(t, []domain.Tokens{-5}, b.remaining(key("debt"), day), "a debt is kept")
}

func idleVanishes(t *testing.T, h Harness) {
	b := h.bench(t)
	fast, slow := limit(t, "fast", "5/s", 10), limit(t, "slow", "1/s", 10)
	b.drain(key("a"), fast)
	b.drain(key("b"), fast, slow)
	require.True(t, b.Holds(key("a")))
	b.Advance(2*time.Second - time.Millisecond)
	assert.True(t, b.Holds(key("a")), "a bucket that is not full is kept")
	b.Advance(time.Millisecond + time.Millisecond + h.Spare)
	assert.False(t, b.Holds(key("a")), "a full bucket is forgotten")
	assert.True(t, b.Holds(key("b")), "a group is kept until its last limit is full")
	b.Advance(8 * time.Second)
	assert.False(t, b.Holds(key("b")))
	assert.Equal(t, []domain.Tokens{10, 10}, b.remaining(key("b"), fast, slow))
}
