//go:build !race

package app_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// manyOverrides returns overrides of one policy, of clients "client-000000" and so on, with so many different limits.
func manyOverrides(n, plans int) []override.Entry {
	entries := make([]override.Entry, n)
	for i := range entries {
		client := fmt.Sprintf("client-%06d", i)
		entries[i] = override.Entry{
			Key: clientkey.NewBucketKey("default", byHeader, client), Version: domain.Instant(i + 1),
			Value: override.Value{
				Effect: fmt.Sprintf(`[{"name":"burst","rate":"5/s","capacity":%d}]`, 100+i%plans), Client: client, Note: fmt.Sprint("ticket ", i),
			},
		}
	}
	return entries
}

// decideUnder returns a call that decides requests of some clients in turn, with so many overrides in force. It reuses its slots.
func decideUnder(tb testing.TB, overrides, plans, clients int) func() {
	tb.Helper()
	limit, err := domain.NewBucket("burst", 10, 1, time.Hour)
	require.NoError(tb, err)
	q := &quickStore{verdict: domain.Allowed, bucket: limit.Full(fakeNow)}
	policies, err := app.NewSinglePolicy(withDefaults(policy.Policy{Key: clientkey.Key{byHeader}, Limits: []domain.Limit{limit}}))
	require.NoError(tb, err)
	limiter := app.NewRateLimiter(q, q, policies, nopObserver{})
	f := &fakeOverrides{table: override.NewTable()}
	f.table.Merge(manyOverrides(overrides, plans)...)
	limiter.UseOverrides(f, func(_, client string, reason error) { tb.Error(client, reason) })
	names := make([]string, clients)
	for i := range names {
		names[i] = fmt.Sprintf("client-%06d", i*997%100_000)
	}
	next := 0
	reqs, answers := make([]policy.Request, 1), make([]ports.Answer, 1)
	reqs[0] = policy.Request{Cost: 1, Lookup: func(clientkey.Source) (string, error) {
		if next++; next == len(names) {
			next = 0
		}
		return names[next], nil
	}}
	ctx := tb.Context()
	return func() { limiter.DecideMany(ctx, reqs, answers) }
}

func TestDecideMany_allocatesNothingForOverrides(t *testing.T) {
	decide := decideUnder(t, 100_000, 100_000, 10_000)
	for range 10_000 { // the limits are compiled
		decide()
	}
	require.LessOrEqual(t, testing.AllocsPerRun(10_000, decide), 1.0)
}

func BenchmarkDecide(b *testing.B) {
	for _, c := range []struct{ overrides, plans int }{{0, 1}, {100_000, 20}, {100_000, 100_000}} {
		b.Run(fmt.Sprintf("overrides=%d/limits=%d", c.overrides, c.plans), func(b *testing.B) {
			decide := decideUnder(b, c.overrides, c.plans, 100)
			for range 1000 {
				decide()
			}
			b.ReportAllocs()
			for b.Loop() {
				decide()
			}
		})
	}
}

// BenchmarkDecide_more reports how much longer a decision takes with 100,000 overrides: short turns with them and without alternate, and
// the quickest of each count, so that other work of the machine hardly does. It wants many rounds: -benchtime 300x. With few clients it is
// the work of a lookup; with many, that of waiting for memory, too.
func BenchmarkDecide_more(b *testing.B) {
	const turn = 2000
	for _, c := range []struct{ plans, clients int }{{20, 100}, {100_000, 100}, {20, 10_000}, {100_000, 10_000}} {
		b.Run(fmt.Sprintf("limits=%d/clients=%d", c.plans, c.clients), func(b *testing.B) {
			decide := []func(){decideUnder(b, 0, 1, c.clients), decideUnder(b, 100_000, c.plans, c.clients)}
			quickest := []time.Duration{time.Hour, time.Hour}
			for range c.clients {
				decide[1]()
			}
			for b.Loop() {
				for i := range decide {
					began := time.Now()
					for range turn {
						decide[i]()
					}
					quickest[i] = min(quickest[i], time.Since(began))
				}
			}
			b.ReportMetric(float64(quickest[0].Nanoseconds())/turn, "ns-without")
			b.ReportMetric(float64(quickest[1].Nanoseconds())/turn, "ns-with")
			b.ReportMetric(float64((quickest[1]-quickest[0]).Nanoseconds())/turn, "ns-more")
		})
	}
}
