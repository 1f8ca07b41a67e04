package domain_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestApply_allocatesNothing(t *testing.T) {
	limits := []domain.Limit{mustLimit(t, "5/s", 10), mustLimit(t, "10000/24h", 10_000)}
	buckets, now := make([]domain.Bucket, 2), t0
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		now += 1000
		domain.Apply(domain.OpTake, 1, limits, buckets, now)
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
		{"two limits", []domain.Limit{mustLimit(b, "5/s", 10), mustLimit(b, "1/s", 10_000)}, 1_000_000},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			buckets, now := make([]domain.Bucket, len(c.limits)), t0
			for b.Loop() {
				now += c.step
				domain.Apply(domain.OpTake, 1, c.limits, buckets, now)
			}
		})
	}
}

func TestNewBucketKey_allocatesTheKeyAlone(t *testing.T) {
	source := domain.KeySource{Kind: domain.SourceHeader, Name: "x-client-id"}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		_ = domain.NewBucketKey("default", source, "client-000042")
	}), 1.0)
}

func BenchmarkNewBucketKey(b *testing.B) {
	source := domain.KeySource{Kind: domain.SourceHeader, Name: "x-client-id"}
	b.ReportAllocs()
	for b.Loop() {
		_ = domain.NewBucketKey("default", source, "client-000042")
	}
}
