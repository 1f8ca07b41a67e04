//go:build faults

package faults

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// clock changes the wall clock of servers that are started with its option.
type clock struct {
	library, offset string // paths
}

// buildClock builds the library that changes a server's clock.
func buildClock(t testing.TB) *clock {
	t.Helper()
	dir := t.TempDir()
	c := &clock{library: filepath.Join(dir, "clock.so"), offset: filepath.Join(dir, "offset")}
	out, err := exec.CommandContext(t.Context(), "gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", c.library,
		filepath.Join("testdata", "clock.c")).CombinedOutput()
	require.NoError(t, err, "building the clock needs gcc (apt-get install gcc libc6-dev): %s", out)
	require.NoError(t, os.WriteFile(c.offset, make([]byte, 8), 0o600))
	return c
}

// option makes a server use this clock.
func (c *clock) option() redistest.Option {
	return redistest.Env("LD_PRELOAD="+c.library, "CLOCK_OFFSET="+c.offset)
}

// set makes the clock differ from the true time by offset.
func (c *clock) set(t testing.TB, offset time.Duration) {
	t.Helper()
	file, err := os.OpenFile(c.offset, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	_, err = file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(offset.Microseconds())), 0)
	require.NoError(t, err)
}

// clockFaults are jumps of a server's wall clock.
func clockFaults() []fault {
	jump := func(kind string, by ...time.Duration) fault {
		var c *clock
		return fault{
			kind: kind, answers: byRedis, sequential: true, clockJumps: true,
			dataLoss: func(*testing.T, *fleet) loss { return loss{Times: ahead(by)} },
			prepare: func(t *testing.T) fleetConfig {
				c = buildClock(t)
				return direct(c.option())
			},
			begin: func(t *testing.T, _ *fleet) {
				for _, offset := range by {
					c.set(t, offset)
					time.Sleep(100 * time.Millisecond)
				}
			},
			end: nothing,
		}
	}
	return []fault{
		jump("clock an hour ahead", time.Hour),
		jump("clock an hour back", -time.Hour),
		jump("clock ahead and back", time.Hour, 0, -time.Hour, 0, time.Hour),
		failoverToASlowClock(),
	}
}

// ahead counts the jumps ahead. At each jump a bucket may become full.
func ahead(offsets []time.Duration) int {
	times, last := 0, time.Duration(0)
	for _, offset := range offsets {
		if offset > last {
			times++
		}
		last = offset
	}
	return times
}

// failoverToASlowClock makes Sentinel replace a primary by a server whose clock is an hour behind. Its stored times are
// then in its future. They must neither block a client nor give it tokens.
func failoverToASlowClock() fault {
	var slow *clock
	return fault{
		kind: "failover to a clock an hour behind", answers: byEither, sequential: true, dataLoss: split,
		prepare: func(t *testing.T) fleetConfig {
			slow = buildClock(t)
			return fleetConfig{topology: redisstore.TopologySentinel, replica: slow.option()}
		},
		begin: func(t *testing.T, f *fleet) {
			slow.set(t, -time.Hour)
			sentinelFailover(t, f)
		},
		end: nothing,
	}
}
