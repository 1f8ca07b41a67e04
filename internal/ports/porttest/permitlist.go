package porttest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func permitsAreListed(t *testing.T, h Harness) {
	b := h.bench(t)
	short, tokens, long := leased(t, "short", 5, 10*time.Second), limit(t, "tokens", "1/8760h", 100), leased(t, "long", 5, time.Minute)
	all := []domain.Limit{short, tokens, long}
	r := b.do(domain.OpList, key("a"), 0, all...)
	require.Len(t, r.Permits, 3)
	for i := range r.Permits {
		assert.Empty(t, r.Permits[i])
	}
	r = b.do(domain.OpList, key("a"), 0, tokens)
	assert.Len(t, r.Permits, 1, "also if no limit has permits")
	var taken [3]domain.Instant
	for i, permit := range []string{"z", "m", "a"} {
		r := b.ask(ports.TakeRequest{Op: domain.OpTake, Key: key("a"), Limits: all, Cost: 1, Permit: permit})
		require.Equal(t, domain.Allowed, r.Verdict)
		taken[i] = r.Now
		b.Advance(time.Second)
	}
	require.Equal(t, domain.Allowed, b.renew(key("a"), "z", long))
	b.Advance(7*time.Second - time.Microsecond)
	r = b.do(domain.OpList, key("a"), 0, all...)
	assert.Equal(t, domain.Allowed, r.Verdict)
	assert.Equal(t, [][]domain.Permit{
		{{ID: "z", Expires: taken[0].Add(10 * time.Second)}, {ID: "m", Expires: taken[1].Add(10 * time.Second)}, {ID: "a", Expires: taken[2].Add(10 * time.Second)}},
		nil,
		{{ID: "m", Expires: taken[1].Add(time.Minute)}, {ID: "a", Expires: taken[2].Add(time.Minute)}, {ID: "z", Expires: taken[0].Add(63 * time.Second)}},
	}, emptyAsNil(r.Permits), "those that expire first come first")
	b.Advance(time.Microsecond)
	r = b.do(domain.OpList, key("a"), 0, all...)
	assert.Len(t, r.Permits[0], 2, "one has expired")
	assert.Equal(t, domain.Tokens(3), short.Remaining(r.States[0]))
	assert.Len(t, r.Permits[2], 3)
	assert.Equal(t, []domain.Tokens{3, 97, 2}, b.remaining(key("a"), all...), "a list takes nothing")
}

func manyPermitsAreListed(t *testing.T, h Harness) {
	b, l := h.bench(t), concurrent(t, "parallel", 1000)
	reqs := make([]ports.TakeRequest, domain.MaxListed+50)
	var want []domain.Permit
	for i := range reqs { // all of them may expire at one instant, and are then listed by ID
		reqs[i] = ports.TakeRequest{
			Op: domain.OpTake, Key: key("a"), Limits: []domain.Limit{l}, Cost: 1, Permit: fmt.Sprintf("p%03d", (i*77)%len(reqs)),
		}
		want = append(want, domain.Permit{ID: fmt.Sprintf("p%03d", i)})
	}
	results := b.many(t.Context(), reqs)
	for i := range results {
		require.NoError(t, results[i].Err)
		want[(i*77)%len(reqs)].Expires = results[i].Now.Add(lease)
	}
	list := ports.TakeRequest{Op: domain.OpList, Key: key("a"), Limits: []domain.Limit{l}}
	b.Store.TakeMany(t.Context(), []ports.TakeRequest{list}, results[:1])
	require.NoError(t, results[0].Err)
	require.Len(t, results[0].Permits, 1)
	assert.Equal(t, want[:domain.MaxListed], results[0].Permits[0])
	assert.Equal(t, domain.Tokens(1000-len(reqs)), l.Remaining(results[0].States[0]), "all of them count")

	list.Op = domain.OpPeek
	b.Store.TakeMany(t.Context(), []ports.TakeRequest{list}, results[:1])
	assert.Empty(t, results[0].Permits, "the old list is overwritten")
}

func emptyAsNil(permits [][]domain.Permit) [][]domain.Permit {
	for i := range permits {
		if len(permits[i]) == 0 {
			permits[i] = nil
		}
	}
	return permits
}
