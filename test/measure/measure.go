// Package measure writes the figures that tests measure to files, for the reliability report. It reads two environment
// variables. VELOCITY_MEASURE is the directory for the figures; if it is not set, no figure is written. VELOCITY_EXACT
// makes tests check the exact times of the report, which needs an otherwise idle machine.
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

// Exact reports whether tests check exact times.
func Exact() bool { return os.Getenv(ExactVar) != "" }

// Keep writes a figure as JSON, if VELOCITY_MEASURE is set.
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

// Quantile returns the quantile q of the times. It sorts them.
func Quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, int(q*float64(len(times))))]
}

// Median returns the median of the numbers. It sorts them.
func Median(numbers []float64) float64 {
	slices.Sort(numbers)
	return numbers[len(numbers)/2]
}
