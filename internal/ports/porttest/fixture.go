package porttest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// bench is a fixture with short methods for the scenarios.
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
	l, err := domain.NewBucket(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}

func key(value string) clientkey.BucketKey {
	return clientkey.NewBucketKey("contract", clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client"}, value)
}

// do carries out one operation, which must not fail.
func (b *bench) do(op domain.Op, k clientkey.BucketKey, cost domain.Tokens, limits ...domain.Limit) ports.TakeResult {
	b.t.Helper()
	r := ports.Take(b.t.Context(), b.Store, ports.TakeRequest{Op: op, Key: k, Limits: limits, Cost: cost})
	require.NoError(b.t, r.Err)
	require.Len(b.t, r.States, len(limits))
	return r
}

func (b *bench) take(k clientkey.BucketKey, cost domain.Tokens, limits ...domain.Limit) domain.Verdict {
	b.t.Helper()
	return b.do(domain.OpTake, k, cost, limits...).Verdict
}

// drain takes every token, so that the next take is denied.
func (b *bench) drain(k clientkey.BucketKey, limits ...domain.Limit) {
	b.t.Helper()
	if least := slices.Min(b.remaining(k, limits...)); least > 0 {
		require.Equal(b.t, domain.Allowed, b.take(k, least, limits...))
	}
	require.Equal(b.t, domain.Denied, b.take(k, 1, limits...), "a drained bucket denies")
}

// remaining peeks at the whole tokens of each limit.
func (b *bench) remaining(k clientkey.BucketKey, limits ...domain.Limit) []domain.Tokens {
	b.t.Helper()
	r := b.do(domain.OpPeek, k, 0, limits...)
	out := make([]domain.Tokens, len(limits))
	for i := range limits {
		out[i] = limits[i].Remaining(r.States[i])
	}
	return out
}

// many calls TakeMany.
func (b *bench) many(ctx context.Context, reqs []ports.TakeRequest) []ports.TakeResult {
	results := make([]ports.TakeResult, len(reqs))
	b.Store.TakeMany(ctx, reqs, results)
	return results
}

func clientKey(i int) clientkey.BucketKey { return key(fmt.Sprintf("client-%d", i)) }
