package domain_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestApply_allocatesNothing(t *testing.T) {
	limits := []domain.Limit{mustLimit(t, "5/s", 10), mustLimit(t, "10000/24h", 10_000), mustCost(t, mustQuota(t, 10_000), 2)}
	buckets, now := make([]domain.State, 3), t0
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		now += 1000
		domain.Apply(domain.Operation{Op: domain.OpTake, Cost: 1}, limits, buckets, nil, now)
	}))
}

func BenchmarkApply(b *testing.B) {
	cases := []struct {
		name   string
		limits []domain.Limit
		step   domain.Instant // 200 ms bring a token of 5/s
	}{
		{"allowed", []domain.Limit{mustLimit(b, "5/s", 10)}, 200_000},
		{"denied", []domain.Limit{mustLimit(b, "5/s", 10)}, 0},
		{"quota", []domain.Limit{mustQuota(b, domain.MaxTokens)}, 0},
		{"two limits", []domain.Limit{mustLimit(b, "5/s", 10), mustLimit(b, "1/s", 10_000)}, 1_000_000},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			buckets, now := make([]domain.State, len(c.limits)), t0
			for b.Loop() {
				now += c.step
				domain.Apply(domain.Operation{Op: domain.OpTake, Cost: 1}, c.limits, buckets, nil, now)
			}
		})
	}
}
