// Package porttest holds the contract of each port as functions that any adapter's test calls.
package porttest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Fixture is a fresh, empty store whose clock the test holds.
type Fixture struct {
	Store ports.BucketStore
	// Advance moves the store's clock, which otherwise stands still; a negative d sets it back.
	Advance func(d time.Duration)
	// Holds reports whether the store still keeps memory for a key, counting what is due to expire by the store's
	// clock as gone.
	Holds func(key domain.BucketKey) bool
}

// Harness makes fixtures.
type Harness struct {
	New func(t *testing.T) Fixture
	// Unreachable makes a store whose servers cannot be reached, and says within which budget it must answer. Nil
	// for a store without servers.
	Unreachable func(t *testing.T) (store ports.BucketStore, budget time.Duration)
	// Spare is how long the store keeps a bucket that is full again, of limits that fill within 16 s. Zero: it is
	// forgotten at once.
	Spare time.Duration
}

// bench is a fixture with shorter words for the scenarios.
type bench struct {
	Fixture
	t *testing.T
}

func (h Harness) bench(t *testing.T) *bench { return &bench{h.New(t), t} }

// limit makes a limit from "5/s" and a capacity.
func limit(t *testing.T, name, rate string, capacity domain.Tokens) domain.Limit {
	t.Helper()
	refill, per, err := domain.ParseRate(rate)
	require.NoError(t, err)
	l, err := domain.NewLimit(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}

func key(value string) domain.BucketKey {
	return domain.NewBucketKey("contract", domain.KeySource{Kind: domain.SourceHeader, Name: "x-client"}, value)
}

// do carries out one operation that must not fail.
func (b *bench) do(op domain.Op, k domain.BucketKey, cost domain.Tokens, limits ...domain.Limit) ports.TakeResult {
	b.t.Helper()
	r := ports.Take(b.t.Context(), b.Store, ports.TakeRequest{Op: op, Key: k, Limits: limits, Cost: cost})
	require.NoError(b.t, r.Err)
	require.Len(b.t, r.Buckets, len(limits))
	return r
}

func (b *bench) take(k domain.BucketKey, cost domain.Tokens, limits ...domain.Limit) domain.Verdict {
	b.t.Helper()
	return b.do(domain.OpTake, k, cost, limits...).Verdict
}

// drain takes everything, so that a next token is denied.
func (b *bench) drain(k domain.BucketKey, limits ...domain.Limit) {
	b.t.Helper()
	remaining := b.remaining(k, limits...)
	least := remaining[0]
	for _, n := range remaining {
		least = min(least, n)
	}
	if least > 0 {
		require.Equal(b.t, domain.Allowed, b.take(k, least, limits...))
	}
	require.Equal(b.t, domain.Denied, b.take(k, 1, limits...), "a drained bucket denies")
}

// remaining peeks at the whole tokens of each limit.
func (b *bench) remaining(k domain.BucketKey, limits ...domain.Limit) []domain.Tokens {
	b.t.Helper()
	r := b.do(domain.OpPeek, k, 0, limits...)
	out := make([]domain.Tokens, len(limits))
	for i := range limits {
		out[i] = limits[i].Remaining(r.Buckets[i])
	}
	return out
}

// many is one call of n requests.
func (b *bench) many(ctx context.Context, reqs []ports.TakeRequest) []ports.TakeResult {
	results := make([]ports.TakeResult, len(reqs))
	b.Store.TakeMany(ctx, reqs, results)
	return results
}

func clientKey(i int) domain.BucketKey { return key(fmt.Sprintf("client-%d", i)) }
