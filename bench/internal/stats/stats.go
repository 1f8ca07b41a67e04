// Package stats computes the median, percentile, spread and ratio of exact samples. Nothing is binned or interpolated.
package stats

import (
	"math"
	"slices"
)

// Median returns the middle of the values, or the mean of the two in the middle. NaN if there are none. The values
// are left as they are.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// Percentile returns the smallest of the sorted samples that at least percent of them do not exceed (the nearest
// rank), so that the answer is always a value that was measured. 0 if there are none.
func Percentile(sorted []uint32, percent float64) uint32 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(percent / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Spread is the distance between the largest and the smallest value, as a share of their median: how far the rounds
// of one measurement lie apart. 0 for fewer than two values or a median of 0.
func Spread(values []float64) float64 {
	m := Median(values)
	if len(values) < 2 || m == 0 {
		return 0
	}
	return (slices.Max(values) - slices.Min(values)) / m
}

// PairedRatio is the median of a[i] / b[i]. The rounds are paired because both values of a round met the same
// moment of the machine: noise that slows the whole round cancels out. Pairs with a missing (NaN) or zero divisor are left
// out; NaN if none remain.
func PairedRatio(a, b []float64) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] == 0 || math.IsNaN(a[i]) || math.IsNaN(b[i]) {
			continue
		}
		ratios = append(ratios, a[i]/b[i])
	}
	return Median(ratios)
}

// PairedDifference is the median of a[i] - b[i]. Pairs with a missing (NaN) value are left out; NaN if none remain.
func PairedDifference(a, b []float64) float64 {
	var differences []float64
	for i := range min(len(a), len(b)) {
		if d := a[i] - b[i]; !math.IsNaN(d) {
			differences = append(differences, d)
		}
	}
	return Median(differences)
}

// Imbalance is how far the largest of the shares lies above their mean: 0 when all are equal, 0.05 when one shard
// carries 5 % more than its part.
func Imbalance(shares []float64) float64 {
	if len(shares) == 0 {
		return 0
	}
	sum := 0.0
	for _, s := range shares {
		sum += s
	}
	if sum == 0 {
		return 0
	}
	return slices.Max(shares)*float64(len(shares))/sum - 1
}
