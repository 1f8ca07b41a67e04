//go:build faults

package faults

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
)

// exact makes the tests hold the times that the scoreboard asks for. Without it they bear a machine that is busy with
// other things.
var exact = flag.Bool("exact", false, "hold the exact times of the scoreboard; for a machine that is otherwise idle")

func TestMain(m *testing.M) {
	redisstore.SetLogger(func(string) {}) // failing connections are what this is about
	os.Exit(m.Run())
}

const (
	// patience bounds every wait for what must come.
	patience = 30 * time.Second
	// recoverTimeout is how soon after the end of a fault the store must decide again.
	recoverTimeout = 2 * time.Second
)

// takeTimeout is the budget of a decision: the default, or one that a busy machine does not spend by itself.
func takeTimeout() time.Duration {
	if *exact {
		return redisstore.DefaultConfig().TakeTimeout
	}
	return 250 * time.Millisecond
}
