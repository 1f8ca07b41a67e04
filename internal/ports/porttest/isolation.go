package porttest

import (
	"context"
	"strings"
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

func keysAreApart(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/h", 10)
	header := clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client"}
	b.drain(clientkey.NewBucketKey("one", header, "a"), l)
	for _, other := range []clientkey.BucketKey{
		clientkey.NewBucketKey("one", header, "b"),
		clientkey.NewBucketKey("two", header, "a"),
		clientkey.NewBucketKey("one", clientkey.Source{Kind: clientkey.SourceIP}, "a"),
	} {
		assert.Equal(t, []domain.Tokens{10}, b.remaining(other, l), "%s", other)
	}
}

func hostileKeysAreApart(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/h", 10)
	long := strings.Repeat("x", 4096)
	values := []string{
		"", " ", "a", "A", "a\n", "a\r\nb", "a\x00", "a\x00b", "{a}", "}{", "{", "}", "a:b", "a=b", "a&b", "a%b", "a%3Ab",
		"ä", "a\u0308", "\xff\xfe", "😀", long, long + "y", strings.Repeat("x", 256), strings.Repeat("x", 257), "b:burst", "*", "?",
	}
	for i, v := range values {
		require.Equal(t, domain.Allowed, b.take(key(v), domain.Tokens(i%9)+1, l), "%.40q", v)
	}
	for i, v := range values {
		assert.Equal(t, []domain.Tokens{9 - domain.Tokens(i%9)}, b.remaining(key(v), l), "%.40q", v)
	}
}

func limitsAreNamed(t *testing.T, h Harness) {
	b := h.bench(t)
	x, y := limit(t, "x", "1/h", 10), limit(t, "y", "1/h", 20)
	b.take(key("a"), 4, x)
	assert.Equal(t, []domain.Tokens{20, 6}, b.remaining(key("a"), y, x), "a limit that is added starts full")
	b.take(key("a"), 1, y, x)
	assert.Equal(t, []domain.Tokens{5, 19}, b.remaining(key("a"), x, y), "their order does not matter")
}

func equalKeysInOrder(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/h", 10)
	ask := func(op domain.Op, cost domain.Tokens) ports.TakeRequest {
		return ports.TakeRequest{Op: op, Key: key("a"), Limits: []domain.Limit{l}, Cost: cost}
	}
	results := b.many(t.Context(), []ports.TakeRequest{
		ask(domain.OpTake, 6), ask(domain.OpTake, 5), ask(domain.OpRefund, 1), ask(domain.OpTake, 5), ask(domain.OpPeek, 0),
	})
	want := []domain.Verdict{domain.Allowed, domain.Denied, domain.Allowed, domain.Allowed, domain.Allowed}
	left := []domain.Tokens{4, 4, 5, 0, 0}
	for i, r := range results {
		require.NoError(t, r.Err)
		assert.Equal(t, want[i], r.Verdict, "request %d", i)
		assert.Equal(t, left[i], l.Remaining(r.States[0]), "request %d", i)
	}
}

func largeCall(t *testing.T, h Harness) {
	b := h.bench(t)
	l, m := limit(t, "burst", "1/h", 10), limit(t, "other", "1/m", 5)
	reqs := make([]ports.TakeRequest, 1000)
	for i := range reqs {
		limits := []domain.Limit{l}
		if i%3 == 0 {
			limits = []domain.Limit{m, l}
		}
		reqs[i] = ports.TakeRequest{Op: domain.OpTake, Key: clientKey(i % 250), Limits: limits, Cost: domain.Tokens(i/250) + 1}
	}
	results := b.many(t.Context(), reqs)
	for i, r := range results {
		require.NoError(t, r.Err, "slot %d", i)
		require.Len(t, r.States, len(reqs[i].Limits), "slot %d", i)
	}
	for client := range 250 { // costs 1, 2, 3, 4 of burst's 10; other has 5 and is asked at every third request
		spent := domain.Tokens(0)
		for i := client; i < 1000; i += 250 {
			if results[i].Verdict == domain.Allowed {
				spent += reqs[i].Cost
			}
		}
		assert.Equal(t, []domain.Tokens{10 - spent}, b.remaining(clientKey(client), l), "client %d", client)
	}
	assert.Equal(t, domain.Allowed, results[999].Verdict)
}

func slotsAreOverwritten(t *testing.T, h Harness) {
	b := h.bench(t)
	l, m := limit(t, "burst", "1/h", 10), limit(t, "other", "1/m", 5)
	results := make([]ports.TakeResult, 1)
	bad := []ports.TakeRequest{{Op: domain.OpTake, Key: key("a"), Cost: 1}}
	b.Store.TakeMany(t.Context(), bad, results)
	require.Error(t, results[0].Err)
	two := []ports.TakeRequest{{Op: domain.OpTake, Key: key("a"), Limits: []domain.Limit{l, m}, Cost: 1}}
	b.Store.TakeMany(t.Context(), two, results)
	require.NoError(t, results[0].Err, "the old error is overwritten")
	require.Len(t, results[0].States, 2)
	one := []ports.TakeRequest{{Op: domain.OpTake, Key: key("a"), Limits: []domain.Limit{m}, Cost: 9}}
	b.Store.TakeMany(t.Context(), one, results)
	require.Len(t, results[0].States, 1, "the old buckets are overwritten")
	assert.Equal(t, domain.Denied, results[0].Verdict, "the old verdict is overwritten")
}

func concurrentTakes(t *testing.T, h Harness) {
	b := h.bench(t)
	limits := []domain.Limit{limit(t, "burst", "1/h", 50), quota(t, "yearly", 50, "year")}
	const goroutines, each, clients = 16, 25, 4
	var allowed [clients]atomic.Int64
	var ready, done sync.WaitGroup
	gun := make(chan struct{})
	for g := range goroutines {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-gun
			for range each {
				r := ports.Take(t.Context(), b.Store, ports.TakeRequest{
					Op: domain.OpTake, Key: clientKey(g % clients), Limits: limits[g%2 : g%2+1], Cost: 1,
				})
				if assert.NoError(t, r.Err) && r.Verdict == domain.Allowed {
					allowed[g%clients].Add(1)
				}
			}
		})
	}
	ready.Wait()
	close(gun)
	done.Wait()
	for c := range clients {
		assert.EqualValues(t, 50, allowed[c].Load(), "client %d asked %d times", c, goroutines/clients*each)
	}
}

func endedContext(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/h", 10)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := ports.TakeRequest{Op: domain.OpTake, Key: key("a"), Limits: []domain.Limit{l}, Cost: 1}
	start := time.Now()
	for _, r := range b.many(ctx, []ports.TakeRequest{req, req}) {
		require.ErrorIs(t, r.Err, ports.ErrUnavailable)
		require.ErrorIs(t, r.Err, context.Canceled)
	}
	assert.Less(t, time.Since(start), time.Second)
	assert.Equal(t, domain.Allowed, b.take(key("a"), 1, l), "the store still works")
}

func unreachable(t *testing.T, h Harness) {
	if h.Unreachable == nil {
		return // a store without servers cannot be unreachable
	}
	store, budget := h.Unreachable(t)
	l := limit(t, "burst", "1/h", 10)
	reqs := make([]ports.TakeRequest, 300)
	for i := range reqs {
		reqs[i] = ports.TakeRequest{Op: domain.OpTake, Key: clientKey(i), Limits: []domain.Limit{l}, Cost: 1}
	}
	results := make([]ports.TakeResult, len(reqs))
	start := time.Now()
	store.TakeMany(t.Context(), reqs, results)
	took := time.Since(start)
	for i, r := range results {
		require.ErrorIs(t, r.Err, ports.ErrUnavailable, "slot %d", i)
	}
	assert.Less(t, took, budget+time.Second, "the budget is %v, and a busy machine gets a second on top", budget)
}
