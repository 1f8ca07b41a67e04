//go:build faults

package faults

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/test/measure"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if n := flag.Lookup("test.parallel"); n.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", parallel) // tests here mostly wait
	}
	redisstore.SetLogger(func(string) {}) // failing connections are what this is about
	os.Exit(m.Run())
}

const (
	// parallel is how many faults are tried at once, and at least the shards of a soak.
	parallel = "4"
	// patience bounds every wait for what must come.
	patience = 30 * time.Second
	// recoverTimeout is how soon after the end of a fault the store must decide again.
	recoverTimeout = 2 * time.Second
)

// takeTimeout is the budget of a decision: the default, or one that a busy machine does not spend by itself.
func takeTimeout() time.Duration {
	if measure.Exact() {
		return redisstore.DefaultConfig().TakeTimeout
	}
	return 250 * time.Millisecond
}

// progressf tells whoever waits.
func progressf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
