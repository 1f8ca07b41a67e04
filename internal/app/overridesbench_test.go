//go:build !race

package app_test

import (
	"fmt"
	"hash/maphash"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// manyTokens allow every request of a benchmark, under each limit: an allowed and a denied decision do not cost the same.
const manyTokens = 1_000_000

// manyOverrides returns overrides of one policy, of clients "client-000000" and so on, with so many different limits.
func manyOverrides(n, plans int) []override.Entry {
	entries := make([]override.Entry, n)
	for i := range entries {
		client := fmt.Sprintf("client-%06d", i)
		entries[i] = override.Entry{
			Key: clientkey.NewBucketKey("default", byHeader, client), Version: domain.Instant(i + 1),
			Value: override.Value{
				Effect: fmt.Sprintf(`[{"name":"burst","rate":"30/h","capacity":%d}]`, manyTokens+i%plans), Client: client, Note: fmt.Sprint("ticket ", i),
			},
		}
	}
	return entries
}

// load is what decisions are measured under.
type load struct {
	overrides, plans int // see manyOverrides
	conditions       int // in the policy; with 1,000 each request fits one of them
	strangers        int // 1: no client has an override; 2: each second one has none; 0: all have one
	clients          int // of 100,000, whose requests come in turn
	inMemory         bool
}

// decideUnder returns a call that decides one request. It reuses its slots.
func decideUnder(tb testing.TB, l load) func() {
	tb.Helper()
	limit, err := domain.NewBucket("burst", manyTokens, 20, time.Hour)
	require.NoError(tb, err)
	p := policy.Policy{Key: clientkey.Key{byHeader}, Limits: []domain.Limit{limit}}
	byPlan := clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-plan"}
	planNames := make([]string, 1000) // which requests have, whether a condition is about them or not
	for i := range planNames {
		planNames[i] = fmt.Sprint("plan-", i)
	}
	for i := range l.conditions {
		p.Overrides = append(p.Overrides, policy.Override{
			When: []policy.Condition{{Source: byPlan, Values: []string{planNames[i]}}}, Limits: []domain.Limit{limit},
		})
	}
	policies, err := app.NewSinglePolicy(withDefaults(p))
	require.NoError(tb, err)
	store := ports.BucketStore(&quickStore{verdict: domain.Allowed, bucket: limit.Full(fakeNow)})
	if l.inMemory {
		m, err := memstore.New(memstore.Config{MaxBuckets: 1_000_000})
		require.NoError(tb, err)
		tb.Cleanup(func() { require.NoError(tb, m.Close()) })
		store = m
	}
	limiter := app.NewRateLimiter(store, store, policies, nopObserver{})
	f := &fakeOverrides{table: override.NewTable()}
	f.table.Merge(manyOverrides(l.overrides, l.plans)...)
	limiter.UseOverrides(f, func(_, client string, reason error) { tb.Error(client, reason) })
	names := make([]string, l.clients)
	for i := range names {
		names[i] = fmt.Sprintf("client-%06d", i*997%100_000)
		if l.strangers > 0 && i%l.strangers == 0 {
			names[i] = "person" + names[i][6:]
		}
	}
	client, plan := "", "" // of the request
	reqs, answers := make([]policy.Request, 1), make([]ports.Answer, 1)
	reqs[0] = policy.Request{Cost: 1, Trusted: true, Lookup: func(s clientkey.Source) (string, error) {
		if s.Name == byPlan.Name {
			return plan, nil
		}
		return client, nil
	}}
	ctx, next := tb.Context(), 0
	return func() {
		if next++; next == len(names) {
			next = 0
		}
		client, plan = names[next], planNames[next%len(planNames)]
		limiter.DecideMany(ctx, reqs, answers)
	}
}

func TestDecideMany_allocatesNothingForOverridesAndConditions(t *testing.T) {
	const clients, garbage = 10_000, 100  // what the runtime allocates beside
	allocations := func(l load) float64 { // of a decision for each client
		l.clients = clients
		decide := decideUnder(t, l)
		return testing.AllocsPerRun(3, func() { // and once before, when the limits are compiled
			for range clients {
				decide()
			}
		})
	}
	for _, inMemory := range []bool{false, true} {
		without := allocations(load{plans: 1, inMemory: inMemory}) + garbage
		assert.LessOrEqual(t, without, clients+2.0*garbage, "the key")
		for _, l := range []load{
			{overrides: 100_000, plans: 100_000, inMemory: inMemory},
			{overrides: 100_000, plans: 20, conditions: 1000, strangers: 2, inMemory: inMemory},
		} {
			assert.LessOrEqual(t, allocations(l), without, "%+v", l)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, l := range []load{
		{clients: 100, plans: 1},
		{clients: 100, overrides: 100_000, plans: 20},
		{clients: 100, overrides: 100_000, plans: 100_000},
		{clients: 100_000, overrides: 100_000, plans: 100_000}, // more different ones than a table keeps compiled
	} {
		b.Run(fmt.Sprintf("overrides=%d/limits=%d/clients=%d", l.overrides, l.plans, l.clients), func(b *testing.B) {
			decide := decideUnder(b, l)
			for range max(1000, l.clients) {
				decide()
			}
			b.ReportAllocs()
			for b.Loop() {
				decide()
			}
		})
	}
}

// BenchmarkDecide_more reports how much longer a decision takes with 100,000 overrides: turns with them and without alternate. In a
// turn each client has ten requests, since a process has one limiter, and the processor's caches are that one's. It reports the
// median of the differences, and the difference of the quickest turns, which other work of the machine hardly changes. It wants many
// rounds: -benchtime 100x. With few clients it is the work of a search; with many, that of waiting for memory, too: ns-one-read is how
// much longer a decision without overrides takes if a number is hashed and one byte read from a table with a line of the cache for each
// override. A search needs about that at least.
func BenchmarkDecide_more(b *testing.B) {
	for _, l := range []load{
		{plans: 20, clients: 100},
		{plans: 20, clients: 100, conditions: 1000, strangers: 2},
		{plans: 20, clients: 100, inMemory: true, conditions: 1000, strangers: 2},
		{plans: 20, clients: 100, inMemory: true, conditions: 1000, strangers: 1},
		{plans: 20, clients: 10_000},
		{plans: 20, clients: 10_000, inMemory: true},
		{plans: 20, clients: 10_000, inMemory: true, conditions: 1000, strangers: 2},
		{plans: 20, clients: 10_000, inMemory: true, conditions: 1000, strangers: 1},
		{plans: 100_000, clients: 10_000},
		{plans: 100_000, clients: 10_000, inMemory: true},
	} {
		name := fmt.Sprintf("limits=%d/clients=%d/in memory=%v/conditions=%d/strangers=%d", l.plans, l.clients, l.inMemory, l.conditions, l.strangers)
		b.Run(name, func(b *testing.B) {
			with, turn := l, 10*l.clients
			with.overrides = 100_000
			without := load{clients: l.clients, strangers: l.strangers, inMemory: l.inMemory, plans: 1}
			decide := []func(){decideUnder(b, without), decideUnder(b, with), readingUnder(b, without, with.overrides)}
			for range l.clients {
				for i := range decide {
					decide[i]()
				}
			}
			var took [3][]float64 // ns for each decision of a turn
			var more []float64
			for b.Loop() {
				for i := range decide {
					began := time.Now()
					for range turn {
						decide[i]()
					}
					took[i] = append(took[i], float64(time.Since(began).Nanoseconds())/float64(turn))
				}
				more = append(more, took[1][len(more)]-took[0][len(more)])
			}
			slices.Sort(more)
			b.ReportMetric(slices.Min(took[0]), "ns-without")
			b.ReportMetric(slices.Min(took[1])-slices.Min(took[0]), "ns-more")
			b.ReportMetric(more[len(more)/2], "ns-more-median")
			b.ReportMetric(slices.Min(took[2])-slices.Min(took[0]), "ns-one-read")
		})
	}
}

// readingUnder is decideUnder, but each call also reads the client's line of a table of so many lines.
func readingUnder(tb testing.TB, l load, lines int) func() {
	tb.Helper()
	decide := decideUnder(tb, l)
	table := make([][64]byte, lines)
	for i := range table {
		table[i][0] = 1 // so that it has memory of its own
	}
	seed, next := maphash.MakeSeed(), uint64(0)
	return func() {
		decide()
		next += uint64(table[maphash.Comparable(seed, next%uint64(l.clients))%uint64(lines)][0])
	}
}
