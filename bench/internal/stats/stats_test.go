package stats_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/bench/internal/stats"
)

func TestMedian(t *testing.T) {
	assert.InDelta(t, 2.0, stats.Median([]float64{3, 1, 2}), 1e-12, "odd: the middle")
	assert.InDelta(t, 2.5, stats.Median([]float64{4, 1, 2, 3}), 1e-12, "even: the mean of the two in the middle")
	assert.InDelta(t, 7.0, stats.Median([]float64{7}), 1e-12)
	assert.True(t, math.IsNaN(stats.Median(nil)))
}

func TestMedian_leavesItsInputAlone(t *testing.T) {
	values := []float64{3, 1, 2}
	stats.Median(values)
	assert.Equal(t, []float64{3, 1, 2}, values)
}

func TestPercentile_isTheNearestRank(t *testing.T) {
	hundred := make([]uint32, 100)
	for i := range hundred {
		hundred[i] = uint32(i + 1)
	}
	cases := []struct {
		name    string
		sorted  []uint32
		percent float64
		want    uint32
	}{
		{"none", nil, 50, 0},
		{"one", []uint32{9}, 99, 9},
		{"median of a hundred", hundred, 50, 50},
		{"p99 of a hundred", hundred, 99, 99},
		{"p99 of three is the largest", []uint32{1, 2, 3}, 99, 3},
		{"p50 of four is the second", []uint32{1, 2, 3, 4}, 50, 2},
		{"p0 is the smallest", hundred, 0, 1},
		{"p100 is the largest", hundred, 100, 100},
	}
	for _, c := range cases {
		assert.Equal(t, c.want, stats.Percentile(c.sorted, c.percent), c.name)
	}
}

func TestSpread(t *testing.T) {
	assert.InDelta(t, 0.2, stats.Spread([]float64{90, 100, 110}), 1e-12)
	assert.Zero(t, stats.Spread([]float64{5}))
	assert.Zero(t, stats.Spread([]float64{0, 0, 0}))
}

func TestPairedRatio_pairsTheRounds(t *testing.T) {
	// The machine ran at half speed in round one; the ratio is 3 all the same.
	assert.InDelta(t, 3.0, stats.PairedRatio([]float64{150, 300, 330}, []float64{50, 100, 110}), 1e-12)
	assert.InDelta(t, 2.0, stats.PairedRatio([]float64{2, 9}, []float64{1, 0}), 1e-12, "a zero divisor is left out")
	assert.InDelta(t, 2.0, stats.PairedRatio([]float64{2, math.NaN()}, []float64{1, 1}), 1e-12, "a missing round is left out")
	assert.True(t, math.IsNaN(stats.PairedRatio(nil, []float64{1})))
}

func TestImbalance(t *testing.T) {
	assert.Zero(t, stats.Imbalance([]float64{5, 5, 5}))
	assert.InDelta(t, 1.0, stats.Imbalance([]float64{1, 1, 1, 3}), 1e-12)
	assert.Zero(t, stats.Imbalance(nil))
	assert.Zero(t, stats.Imbalance([]float64{0, 0}))
}

func TestPairedDifference(t *testing.T) {
	nan := math.NaN()
	assert.InDelta(t, 2, stats.PairedDifference([]float64{3, 12, 5, nan}, []float64{1, 2, 4, 1}), 1e-12, "the median of 2, 10 and 1")
	assert.True(t, math.IsNaN(stats.PairedDifference([]float64{1}, []float64{nan})), "no pair")
}
