//go:build faults

package faults

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// population is what a process holds on to.
type population struct {
	Goroutines int // that run code of ours, or of go-redis
	Files      int // that are open, sockets included
	stacks     string
}

func (p population) exceeds(o population) bool {
	return p.Goroutines > o.Goroutines || p.Files > o.Files
}

func census(t testing.TB) population {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	buffer := make([]byte, 16<<20)
	buffer = buffer[:runtime.Stack(buffer, true)]
	p := population{Files: len(files)}
	for stack := range strings.SplitSeq(string(buffer), "\n\n") {
		if strings.Contains(stack, "/velocity/internal/") || strings.Contains(stack, "/go-redis/") {
			p.Goroutines++
			p.stacks += stack + "\n\n"
		}
	}
	return p
}

// heapInUse is the heap that is reachable.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // what was pooled is gone after two
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
