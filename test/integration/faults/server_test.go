//go:build faults

package faults

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// processFaults are faults of a server's process.
func processFaults() []fault {
	return []fault{
		{
			kind: "killed, no persistence", fleet: direct(),
			begin:   func(_ *testing.T, f *fleet) { f.servers[0].Kill() },
			end:     func(_ *testing.T, f *fleet) { f.servers[0].Restart() },
			answers: byPolicy, dataLoss: once,
		},
		{
			// While the sync of the previous second is in progress, the server answers before it writes.
			kind:    "killed, append-only file",
			fleet:   direct(redistest.Args("--appendonly", "yes", "--appendfsync", "everysec")),
			begin:   func(_ *testing.T, f *fleet) { f.servers[0].Kill() },
			end:     func(_ *testing.T, f *fleet) { f.servers[0].Restart() },
			answers: byPolicy, dataLoss: once,
		},
		{
			kind:    "killed, append-only file, always synced",
			fleet:   direct(redistest.Args("--appendonly", "yes", "--appendfsync", "always")),
			begin:   func(_ *testing.T, f *fleet) { f.servers[0].Kill() },
			end:     func(_ *testing.T, f *fleet) { f.servers[0].Restart() },
			answers: byPolicy,
		},
		{
			kind: "killed repeatedly", lasts: 2 * time.Second,
			fleet: direct(redistest.Args("--appendonly", "yes", "--appendfsync", "always")),
			begin: func(_ *testing.T, f *fleet) {
				for range 5 {
					f.servers[0].Kill()
					f.servers[0].Restart()
				}
			},
			end: nothing, answers: byEither,
		},
		{
			kind: "loading", fleet: direct(redistest.Args("--appendonly", "yes", "--appendfsync", "always", "--key-load-delay", "3000")),
			begin: func(t *testing.T, f *fleet) {
				c := admin(t, f.servers[0])
				pipe := c.Pipeline()
				for i := range 1000 { // loading takes three seconds
					pipe.Set(t.Context(), fmt.Sprint("ballast-", i), "x", 0)
				}
				_, err := pipe.Exec(t.Context())
				require.NoError(t, err)
				f.servers[0].Kill()
				f.servers[0].RestartLoading()
			},
			end: func(t *testing.T, f *fleet) {
				awaitOK(t, func() error { return admin(t, f.servers[0]).Ping(t.Context()).Err() })
			},
			answers: byPolicy,
		},
		{
			kind: "stopped process", fleet: direct(),
			begin:   func(_ *testing.T, f *fleet) { f.servers[0].Pause() },
			end:     func(_ *testing.T, f *fleet) { f.servers[0].Resume() },
			answers: byPolicy,
		},
		{
			kind: "stopped briefly", fleet: direct(),
			begin: func(_ *testing.T, f *fleet) {
				for range 10 {
					f.servers[0].Pause()
					time.Sleep(takeTimeout() * 2)
					f.servers[0].Resume()
					time.Sleep(50 * time.Millisecond)
				}
			},
			end: nothing, answers: byEither,
		},
	}
}

func direct(options ...redistest.Option) fleetConfig {
	return fleetConfig{direct: true, options: options}
}

// commandFaults are commands that an operator may send to a server.
func commandFaults() []fault {
	return []fault{
		{
			kind: "DEBUG SLEEP", fleet: direct(redistest.Args("--enable-debug-command", "local")),
			begin: func(t *testing.T, f *fleet) {
				c := admin(t, f.servers[0])
				go c.Do(t.Context(), "debug", "sleep", "1.2")
			},
			end: func(t *testing.T, f *fleet) { answered(t, f) }, answers: byPolicy,
		},
		{
			kind: "CLIENT PAUSE WRITE", fleet: direct(),
			begin: func(t *testing.T, f *fleet) { do(t, f, "client", "pause", 60_000, "write") },
			end:   func(t *testing.T, f *fleet) { do(t, f, "client", "unpause") }, answers: byPolicy,
		},
		{
			kind: "CLIENT PAUSE ALL", fleet: direct(),
			begin: func(t *testing.T, f *fleet) { do(t, f, "client", "pause", 1200, "all") },
			end:   func(t *testing.T, f *fleet) { answered(t, f) }, answers: byPolicy,
		},
		{
			kind: "CLIENT KILL", fleet: direct(),
			begin: func(t *testing.T, f *fleet) { killClients(t, f) },
			end:   nothing, answers: byRedis,
		},
		{
			kind: "SCRIPT FLUSH", fleet: direct(),
			begin: func(t *testing.T, f *fleet) { do(t, f, "script", "flush") },
			end:   nothing, answers: byRedis,
		},
		{
			kind: "FLUSHALL", fleet: direct(),
			begin: func(t *testing.T, f *fleet) { do(t, f, "flushall") },
			end:   nothing, answers: byRedis, dataLoss: once,
		},
		{
			kind: "FLUSHALL three times", fleet: direct(),
			begin: func(t *testing.T, f *fleet) {
				for range 3 {
					do(t, f, "flushall")
					time.Sleep(200 * time.Millisecond)
				}
			},
			end: nothing, answers: byRedis, dataLoss: func(*testing.T, *fleet) loss { return loss{Times: 3} },
		},
		{
			kind: "eviction, allkeys-lru", fleet: direct(redistest.Args("--maxmemory-policy", "allkeys-lru")),
			begin: func(t *testing.T, f *fleet) {
				c := admin(t, f.servers[0])
				used, err := strconv.Atoi(infoOf(t, c, "memory", "used_memory"))
				require.NoError(t, err)
				do(t, f, "config", "set", "maxmemory", used+200_000)
				for i := range 400 {
					require.NoError(t, c.Set(t.Context(), fmt.Sprint("other-", i), strings.Repeat("x", 2000), 0).Err())
				}
			},
			end:     func(t *testing.T, f *fleet) { do(t, f, "config", "set", "maxmemory", 0) },
			answers: byEither, // the server refuses writes if client buffers use all the memory
			dataLoss: func(t *testing.T, f *fleet) loss {
				evicted, err := strconv.Atoi(infoOf(t, admin(t, f.servers[0]), "stats", "evicted_keys"))
				require.NoError(t, err)
				require.Positive(t, evicted)
				return loss{Times: evicted}
			},
		},
	}
}

// do sends a command to the first server directly. On a busy machine a script may run for long, and a server carries out nothing
// meanwhile: the command is sent again.
func do(t testing.TB, f *fleet, args ...any) {
	t.Helper()
	c, deadline := admin(t, f.servers[0]), time.Now().Add(waitTimeout)
	err := c.Do(t.Context(), args...).Err()
	for ; redis.HasErrorPrefix(err, "BUSY ") && time.Now().Before(deadline); err = c.Do(t.Context(), args...).Err() {
		time.Sleep(2 * time.Millisecond)
	}
	require.NoError(t, err, args)
}

// answered waits until the first server answers.
func answered(t testing.TB, f *fleet) {
	t.Helper()
	require.NoError(t, admin(t, f.servers[0]).Ping(t.Context()).Err())
}

func killClients(t testing.TB, f *fleet) {
	t.Helper()
	do(t, f, "client", "kill", "type", "normal", "skipme", "yes")
}

// awaitOK waits until f succeeds.
func awaitOK(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	require.NoError(t, err, "after %v", waitTimeout)
}

// infoOf returns a value of INFO.
func infoOf(t testing.TB, c *redis.Client, section, name string) string {
	t.Helper()
	text, err := c.Info(t.Context(), section).Result()
	require.NoError(t, err)
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("INFO %s has no %s", section, name)
	return ""
}
