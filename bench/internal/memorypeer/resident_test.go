package memorypeer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	ulule "github.com/ulule/limiter/v3"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"

	"github.com/velocity-limiter/velocity/bench/internal/memorypeer"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
)

// residentVar names, in a process that BenchmarkResidentMemory starts, the limiter that it fills.
const residentVar = "BENCH_RESIDENT_OF"

const residentClients = 1_000_000

var hourly = peer.Limit{Tokens: 1, Per: time.Hour, Capacity: 10}

// BenchmarkResidentMemory takes one token of each of a million new clients, with keys of 25 characters, in a process of its own
// for each limiter, and reports the resident memory of the process (Linux) with them, right after, minus that without them, for
// each client. GOGC is what the environment says.
//
//	cd bench && go test ./internal/memorypeer -run '^$' -bench ResidentMemory -benchtime 1x
func BenchmarkResidentMemory(b *testing.B) {
	for _, name := range append(names(), ululeName) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				cmd := exec.Command(os.Args[0], "-test.run", "^TestResident_fill$")
				cmd.Env = append(os.Environ(), residentVar+"="+name)
				out, err := cmd.CombinedOutput()
				require.NoError(b, err, "%s", out)
				var bytes float64
				_, err = fmt.Sscan(string(out), &bytes)
				require.NoError(b, err, "%s", out)
				b.ReportMetric(bytes/residentClients, "resident-B/client")
			}
		})
	}
}

func names() (list []string) {
	for _, p := range memorypeer.All() {
		list = append(list, p.Name)
	}
	return list
}

// TestResident_fill is the process that BenchmarkResidentMemory starts. By itself it does nothing.
func TestResident_fill(t *testing.T) {
	name := os.Getenv(residentVar)
	if name == "" {
		return
	}
	before := residentBytes(t) // before it is opened: some allocate their table then
	limiter := openByName(t, name)
	take := limiter.NewTake()
	for i := range residentClients {
		passed, err := take(t.Context(), fmt.Sprintf("default:ip=10.%03d.%03d.%03d", i>>16, i>>8&255, i&255))
		require.NoError(t, err)
		require.True(t, passed)
	}
	fmt.Println(residentBytes(t) - before)
	require.NoError(t, limiter.Shut())
}

const ululeName = "ulule/limiter"

func openByName(t *testing.T, name string) *peer.Limiter {
	for _, p := range memorypeer.All() {
		if p.Name == name {
			limiter, err := p.Open(hourly, residentClients)
			require.NoError(t, err)
			return limiter
		}
	}
	require.Equal(t, ululeName, name)
	limiter := ulule.New(ululememory.NewStore(), ulule.Rate{Period: hourly.Window(), Limit: int64(hourly.Capacity)})
	return peer.Shared(func(ctx context.Context, client string) (bool, error) {
		decided, err := limiter.Get(ctx, client)
		return !decided.Reached, err
	}, nil)
}

func residentBytes(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "VmRSS:")
	require.True(t, found)
	var kib int
	_, err = fmt.Sscan(rest, &kib)
	require.NoError(t, err)
	return kib << 10
}
