package top

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// clock is a Top whose time the test controls.
type clock struct {
	*Top
	at time.Time
}

func newClock() *clock {
	c := &clock{at: time.Unix(0, 0)}
	c.Top = newTop(func() time.Time { return c.at })
	return c
}

func (c *clock) pass(n int) {
	for range n {
		c.at = c.at.Add(span)
		c.next()
	}
}

func (c *clock) decide(policy, key string, n int, outcome decision.Outcome) {
	for range n {
		c.Decided(nil, &decision.Decision{Policy: policy, Client: key, Outcome: outcome})
	}
}

func TestTop_countsPerPolicyAndKind(t *testing.T) {
	c := newClock()
	c.decide("search", "alice", 5, decision.OutcomeAllowed)
	c.decide("search", "alice", 2, decision.OutcomeDenied)
	c.decide("search", "bob", 2, decision.OutcomeDenied)
	c.Decided(nil, &decision.Decision{Policy: "search", Client: "bob", UsedFallbackKey: true, Outcome: decision.OutcomeDenied}) // a limit's
	c.decide("default", "alice", 1, decision.OutcomeUnavailable)
	c.Decided(nil, &decision.Decision{Policy: "default", Client: "192.0.2.7", UsedFallbackKey: true, ClientIsAddress: true, Outcome: decision.OutcomeDenied})
	c.at = c.at.Add(3 * time.Second)

	assert.Equal(t, ports.TopReport{Window: 3 * time.Second, Policies: []ports.TopPolicy{
		{
			Policy: "default", Requests: 2, Denials: 1,
			ByRequests: []ports.TopClient{{Key: "192.0.2.7", Source: "ip", Count: 1}, {Key: "alice", Count: 1}},
			ByDenials:  []ports.TopClient{{Key: "192.0.2.7", Source: "ip", Count: 1}},
		},
		{
			Policy: "search", Requests: 10, Denials: 5,
			ByRequests: []ports.TopClient{{Key: "alice", Count: 7}, {Key: "bob", Count: 3}},
			ByDenials:  []ports.TopClient{{Key: "bob", Count: 3}, {Key: "alice", Count: 2}},
		},
	}}, c.Top.Top(10))
	assert.Equal(t, []ports.TopClient{{Key: "alice", Count: 7}}, c.Top.Top(1).Policies[1].ByRequests)
}

func TestTop_isAboutTheLastMinute(t *testing.T) {
	c := newClock()
	steps := []struct {
		pass int
		want uint64
	}{
		{0, 1},
		{1, 2}, // 10 s later
		{4, 3}, // 50 s later: the first is still in the window
		{1, 3}, // and leaves it
		{4, 3}, // and so does the second, at 100 s
		{6, 1}, // only the new one is left
	}
	for i, step := range steps {
		c.pass(step.pass)
		c.decide("default", "alice", 1, decision.OutcomeAllowed)
		require.Equal(t, step.want, c.Top.Top(1).Policies[0].ByRequests[0].Count, "step %d", i)
	}
	c.at = c.at.Add(span / 2)
	assert.Equal(t, 55*time.Second, c.Top.Top(1).Window)
	c.pass(spans)
	assert.Empty(t, c.Top.Top(1).Policies)
}

// The stream has a few heavy clients and many light ones. Every estimate must be within its stated error and the bound,
// and no heavy client may be missing.
func TestTop_errorIsWithinTheBound(t *testing.T) {
	const heavy, light, n = 10, 20_000, 200_000
	c := newClock()
	truth := map[string]uint64{}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		key := fmt.Sprint("light-", random.IntN(light))
		if i%2 == 0 {
			key = fmt.Sprint("heavy-", random.IntN(heavy))
		}
		truth[key]++
		c.decide("default", key, 1, decision.OutcomeDenied)
		if i%(n/spans) == n/spans-1 && i < n-n/spans {
			c.pass(1)
		}
	}
	p := c.Top.Top(1 << 20).Policies[0]
	assert.Equal(t, uint64(n), p.Requests)
	assert.Equal(t, uint64(n), p.Denials)
	for i, found := range p.ByDenials {
		assert.LessOrEqual(t, truth[found.Key], found.Count, found.Key)
		assert.GreaterOrEqual(t, truth[found.Key], found.Count-found.Error, found.Key)
		assert.LessOrEqual(t, found.Error, uint64(n/kept), found.Key)
		assert.Equal(t, i < heavy, strings.HasPrefix(found.Key, "heavy-"), "%d: %s", i, found.Key)
	}
	assert.Equal(t, p.ByDenials, p.ByRequests)
}

func TestTop_memoryIsBounded(t *testing.T) {
	c := newClock()
	for i := range 100_000 {
		c.decide(fmt.Sprint("policy-", i%100), fmt.Sprint(i, strings.Repeat("x", 300)), 1, decision.OutcomeDenied)
		if i%7000 == 0 {
			c.pass(1)
		}
	}
	report := c.Top.Top(1 << 20)
	policies := len(report.Policies) // Len would print them all
	assert.Equal(t, maxPolicies, policies)
	for i := range c.parts {
		assert.LessOrEqual(t, len(c.parts[i].policies), maxPolicies)
		for _, w := range c.parts[i].policies {
			for j := range w {
				assert.LessOrEqual(t, len(w[j].requests.entries), maxEntries)
				assert.Len(t, w[j].requests.index, len(w[j].requests.entries))
				for _, e := range w[j].requests.entries {
					assert.LessOrEqual(t, len(e.key), maxKey)
				}
			}
		}
	}
	c.pass(spans)
	c.decide("another", "alice", 1, decision.OutcomeAllowed)
	assert.Equal(t, "another", c.Top.Top(1).Policies[0].Policy, "idle policies are dropped for new ones")
}

// However many goroutines bring new policies, and however many become idle meanwhile, no more are counted than the bound.
func TestTop_boundsThePoliciesUnderConcurrency(t *testing.T) {
	c := newClock()
	for round := range 50 {
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 3 * maxPolicies {
					c.decide(fmt.Sprint("policy-", round, "-", (g+i)%(3*maxPolicies)), fmt.Sprint(g, "-", i), 1, decision.OutcomeDenied)
				}
			})
		}
		wg.Go(func() {
			for range spans + 1 {
				c.pass(1)
			}
		})
		wg.Wait()
		held := map[string]bool{}
		for i := range c.parts {
			for name := range c.parts[i].policies {
				held[name] = true
			}
		}
		require.LessOrEqual(t, len(held), maxPolicies, "round %d", round)
		for name := range held {
			require.Contains(t, c.counted, name, "a policy with a window is one of those that are counted")
		}
	}
}

func TestDecided_aKnownClientAllocatesNothing(t *testing.T) {
	c := newClock()
	d := &decision.Decision{Policy: "default", Client: "alice", Outcome: decision.OutcomeDenied}
	assert.Zero(t, testing.AllocsPerRun(100, func() { c.Decided(nil, d) }))
}

func TestClose_endsTheGoroutine(t *testing.T) {
	top := New()
	require.NoError(t, top.Close())
	require.NoError(t, top.Close())
}

func BenchmarkDecided(b *testing.B) {
	for _, clients := range []int{1, 1000, 1_000_000} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			top := New()
			defer func() { _ = top.Close() }()
			keys := make([]string, clients)
			for i := range keys {
				keys[i] = fmt.Sprint("client-", i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				d := &decision.Decision{Policy: "default", Outcome: decision.OutcomeAllowed}
				random := rand.New(rand.NewPCG(1, rand.Uint64()))
				for pb.Next() {
					d.Client = keys[random.IntN(clients)]
					top.Decided(nil, d)
				}
			})
		})
	}
}
