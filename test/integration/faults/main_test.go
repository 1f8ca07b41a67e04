//go:build faults

package faults

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/test/measure"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if n := flag.Lookup("test.parallel"); n.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", parallel) // these tests mostly wait
	}
	redisstore.SetLogger(func(string) {}) // failing connections are expected
	toxics.Register("slices", new(slicer))
	zerolog.SetGlobalLevel(zerolog.Disabled) // toxiproxy's toxics have a log of their own
	os.Exit(m.Run())
}

const (
	// parallel is the number of parallel subtests. It is at least soakShards.
	parallel = "4"
	// waitTimeout bounds every wait for a condition.
	waitTimeout = 30 * time.Second
	// recoverTimeout is the time after a fault within which Redis must answer again.
	recoverTimeout = 2 * time.Second
)

// takeTimeout is the budget of a decision. Without exact times it is longer than the default, for busy machines.
func takeTimeout() time.Duration {
	if measure.Exact() {
		return redisstore.DefaultConfig().TakeTimeout
	}
	return 250 * time.Millisecond
}

// progressf prints progress while a test runs.
func progressf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
