//go:build containers

package containers

import (
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFigures logs the size of the image, the time from the start of the process to its first answer, and its resident memory.
func TestFigures(t *testing.T) {
	built, err := image()
	require.NoError(t, err)
	size, err := strconv.ParseFloat(inspect(t, built, "{{.Size}}"), 64)
	require.NoError(t, err)
	require.Greater(t, size, 1e6)

	var starts []time.Duration
	var id, url string
	for range 5 {
		id, url = startVelocity(t)
		docker(t, "stop", id)
		docker(t, "start", id)
		for {
			if _, err := get(url + "/api/resource"); err == nil {
				break
			}
		}
		answered := time.Now()
		started, err := time.Parse(time.RFC3339Nano, inspect(t, id, "{{.State.StartedAt}}"))
		require.NoError(t, err)
		starts = append(starts, answered.Sub(started))
	}
	slices.Sort(starts)
	resident := regexp.MustCompile(`\nVmRSS:\s+(\d+) kB`).FindStringSubmatch(process(t, id))
	require.NotNil(t, resident)
	memory, err := strconv.ParseFloat(resident[1], 64)
	require.NoError(t, err)
	t.Logf("image: %.1f MB, first answer after %d ms (median of %d starts), resident memory: %.1f MB",
		size/1e6, starts[len(starts)/2].Milliseconds(), len(starts), memory*1024/1e6)
}
