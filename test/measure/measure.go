// Package measure keeps what tests measure, so that the scoreboard can say it. Two environment variables decide:
// VELOCITY_MEASURE is the folder of the figures, nothing is kept without it; VELOCITY_EXACT makes tests hold the exact
// times of the scoreboard, which a machine that is busy with other things cannot.
package measure

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// The environment variables.
const (
	FolderVar = "VELOCITY_MEASURE"
	ExactVar  = "VELOCITY_EXACT"
)

// Exact reports whether exact times are to be held.
func Exact() bool { return os.Getenv(ExactVar) != "" }

// Keep writes a figure down, as JSON.
func Keep(t testing.TB, name string, figure any) {
	t.Helper()
	folder := os.Getenv(FolderVar)
	if folder == "" {
		return
	}
	text, err := json.MarshalIndent(figure, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, name+".json"), text, 0o600)
	}
	if err != nil {
		t.Fatalf("keeping %s: %v", name, err)
	}
}

// Quantile is the q-th of the times, which it sorts.
func Quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, int(q*float64(len(times))))]
}

// Median is the middle of the numbers, which it sorts.
func Median(numbers []float64) float64 {
	slices.Sort(numbers)
	return numbers[len(numbers)/2]
}
