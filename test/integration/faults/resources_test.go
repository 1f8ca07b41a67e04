//go:build faults

package faults

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// resources counts what the process holds.
type resources struct {
	Goroutines int // that run code of Velocity or go-redis
	Files      int // open files and sockets
	stacks     string
}

func (p resources) exceeds(o resources) bool {
	return p.Goroutines > o.Goroutines || p.Files > o.Files
}

func countResources(t testing.TB) resources {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	buffer := make([]byte, 16<<20)
	buffer = buffer[:runtime.Stack(buffer, true)]
	p := resources{Files: len(files)}
	for stack := range strings.SplitSeq(string(buffer), "\n\n") {
		if strings.Contains(stack, "/velocity/internal/") || strings.Contains(stack, "/go-redis/") {
			p.Goroutines++
			p.stacks += stack + "\n\n"
		}
	}
	return p
}

// heapInUse returns the size of the reachable heap.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // the second cycle frees the contents of sync.Pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
