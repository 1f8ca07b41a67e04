package redisstore_test

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// trouble brings a real server into a state in which it cannot decide, and returns the settings of a store for it.
type trouble func(t *testing.T) redisstore.Config

// troubles are all that a real server can be made to do instead of deciding, each with the failure that it must be classified as.
var troubles = []struct {
	name string
	is   trouble
	want failure.Failure
}{
	{"refused", func(t *testing.T) redisstore.Config {
		return config(redistest.Refusing(t))
	}, means(failure.Refused, ports.ErrNotRun, true)},
	{"no route", func(t *testing.T) redisstore.Config {
		return redisstore.DefaultConfig(redistest.Blackhole(t))
	}, means(failure.Dial, ports.ErrNotRun, true)},
	{"no such host", func(*testing.T) redisstore.Config {
		return config("velocity.invalid:6379")
	}, means(failure.Dial, ports.ErrNotRun, true)},
	{"frozen", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t)
		server.Pause()
		return redisstore.DefaultConfig(server.Addr)
	}, means(failure.Timeout, failure.ErrMayHaveRun, true)},
	{"paused for writes", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t)
		require.NoError(t, plainClient(t, server.Addr).Do(t.Context(), "client", "pause", patient.Milliseconds(), "write").Err())
		return redisstore.DefaultConfig(server.Addr)
	}, means(failure.Timeout, failure.ErrMayHaveRun, true)},
	{
		"answer cut off", tampered(func(a []byte) ([]byte, bool) { return a[:len(a)/2], false }),
		means(failure.Closed, failure.ErrMayHaveRun, true),
	},
	{
		"answer garbled", tampered(func([]byte) ([]byte, bool) { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), true }),
		means(failure.Garbled, failure.ErrMayHaveRun, true),
	},
	{
		"answer of another", tampered(func([]byte) ([]byte, bool) { return []byte("*2\r\n:1\r\n:7\r\n"), true }),
		means(failure.Garbled, failure.ErrMayHaveRun, true),
	},
	{"no password", serverWith("--requirepass", password), means(failure.Auth, ports.ErrNotRun, true)},
	{"wrong password", func(t *testing.T) redisstore.Config {
		cfg := serverWith("--requirepass", password)(t)
		cfg.Password = "wrong"
		return cfg
	}, means(failure.Auth, ports.ErrNotRun, true)},
	{
		"no permission for scripts", serverWith("--user", "default", "on", "nopass", "~*", "+@all", "-evalsha"),
		means(failure.NoPerm, ports.ErrNotRun, true),
	},
	{
		"no permission for a command of the script", serverWith("--user", "default", "on", "nopass", "~*", "+@all", "-hset"),
		means(failure.NoPerm, failure.ErrMayHaveRun, true),
	},
	{"too many clients", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t, redistest.Args("--maxclients", "1"))
		require.NoError(t, plainClient(t, server.Addr).Ping(t.Context()).Err())
		return config(server.Addr)
	}, means(failure.MaxClients, ports.ErrNotRun, true)},
	{
		"full", serverWith("--maxmemory", "1", "--maxmemory-policy", "noeviction"),
		means(failure.OOM, ports.ErrNotRun, true),
	},
	{"replica", func(t *testing.T) redisstore.Config {
		host, port := hostAndPort(t, redistest.Start(t).Addr)
		return serverWith("--replicaof", host, port)(t)
	}, means(failure.ReadOnly, ports.ErrNotRun, true)},
	{
		"replica without its primary", serverWith("--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "no"),
		means(failure.ReadOnly, ports.ErrNotRun, true),
	},
	{"too few replicas", serverWith("--min-replicas-to-write", "1"), means(failure.NoReplicas, ports.ErrNotRun, true)},
	{"cannot save", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t, redistest.Args("--save", "3600 1000000"))
		c := plainClient(t, server.Addr)
		require.NoError(t, os.RemoveAll(server.Dir))
		require.NoError(t, c.BgSave(t.Context()).Err())
		require.Eventually(t, func() bool {
			return c.InfoMap(t.Context(), "persistence").Item("Persistence", "rdb_last_bgsave_status") == "err"
		}, patient, time.Millisecond)
		return config(server.Addr)
	}, means(failure.Misconf, ports.ErrNotRun, true)},
	{"loading", loading, means(failure.Loading, ports.ErrNotRun, true)},
	{"blocked by a script", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t, redistest.Args("--busy-reply-threshold", "10"))
		c := plainClient(t, server.Addr)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.Eval(context.WithoutCancel(t.Context()), "while true do end", nil).Err() // it is killed
		}()
		other := plainClient(t, server.Addr)
		t.Cleanup(func() {
			_ = other.ScriptKill(context.WithoutCancel(t.Context())).Err()
			<-done
		})
		require.Eventually(t, func() bool { return other.Ping(t.Context()).Err() != nil }, patient, time.Millisecond)
		return config(server.Addr)
	}, means(failure.Busy, ports.ErrNotRun, true)},
	{"cluster without slots", serverWith("--cluster-enabled", "yes"), means(failure.ClusterDown, ports.ErrNotRun, true)},
	{"another type", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t)
		require.NoError(t, plainClient(t, server.Addr).Set(t.Context(), script.RedisKey(key("a")), "x", 0).Err())
		return config(server.Addr)
	}, means(failure.WrongType, ports.ErrNotRun, false)},
	{"no bucket", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t)
		require.NoError(t, plainClient(t, server.Addr).HSet(t.Context(), script.RedisKey(key("a")), "b:burst", "x").Err())
		return config(server.Addr)
	}, means(failure.Corrupt, ports.ErrNotRun, false)},
	{"TLS, but not there", func(t *testing.T) redisstore.Config { // the server waits for the end of a line
		cfg := redisstore.DefaultConfig(redistest.Start(t).Addr)
		cfg.TLS = true
		return cfg
	}, means(failure.Dial, ports.ErrNotRun, true)},
	{"TLS, by a stranger", func(t *testing.T) redisstore.Config {
		ca, cert, certKey := redistest.Certificates(t)
		cfg := config(redistest.Start(t, redistest.TLS(cert, certKey, ca)).Addr)
		cfg.TLS = true
		return cfg
	}, means(failure.TLS, ports.ErrNotRun, true)},
}

// reset is the failure of a connection that the server has reset. A server that closes a connection with unread bytes resets
// it, and the reset may arrive before the server's answer. overtaken names the troubles where that happens.
var (
	reset     = means(failure.Closed, failure.ErrMayHaveRun, true)
	overtaken = map[string]bool{"too many clients": true, "no password": true}
)

func means(kind failure.Kind, effect error, trips bool) failure.Failure {
	return failure.Failure{Kind: kind, Effect: effect, Trips: trips}
}

func serverWith(args ...string) trouble {
	return func(t *testing.T) redisstore.Config { return config(redistest.Start(t, redistest.Args(args...)).Addr) }
}

// tampered tampers with every answer of the script.
func tampered(what redistest.Tamper) trouble {
	return func(t *testing.T) redisstore.Config {
		p := redistest.StartProxy(t, redistest.Start(t).Addr)
		p.TamperWithEvery(1, what)
		return config(p.Addr)
	}
}

// loading is a server that takes long to read its data.
func loading(t *testing.T) redisstore.Config {
	// It answers LOADING only after reading this many bytes, the size of two of these keys.
	server := redistest.Start(t, redistest.Args("--enable-debug-command", "local", "--rdbcompression", "no",
		"--loading-process-events-interval-bytes", "1024"))
	c := plainClient(t, server.Addr)
	require.NoError(t, c.Do(t.Context(), "debug", "populate", 1000, "key", 1000).Err())
	require.NoError(t, c.ConfigSet(t.Context(), "key-load-delay", "20000").Err())         // microseconds for each key
	go func() { _ = c.Do(context.WithoutCancel(t.Context()), "debug", "reload").Err() }() // it does not end
	return config(server.Addr)
}

func hostAndPort(t *testing.T, addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	return host, port
}

func TestClassify_whatRealServersSay(t *testing.T) {
	for _, c := range troubles {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, c.is(t))
			var err error
			for err == nil { // some troubles take a moment to begin
				err = ports.Take(t.Context(), s, take("a", 1, limit(t, "burst", "1/h", 10))).Err
			}
			got := failure.Classify(err)
			assert.NotZero(t, s.Stats()[0].Failures[string(got.Kind)], "it is counted")
			if got != reset || !overtaken[c.name] {
				assert.Equal(t, c.want, got, "%v", err)
			}
			want := ports.ErrUnavailable
			if c.want.Kind == failure.WrongType || c.want.Kind == failure.Corrupt {
				want = ports.ErrCorrupt
			}
			require.ErrorIs(t, err, want)
			assert.NotContains(t, err.Error(), password)
		})
	}
}
