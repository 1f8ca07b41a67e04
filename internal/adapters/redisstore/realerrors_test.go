package redisstore_test

import (
	"context"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// trouble brings a real server into a state in which it cannot decide, and returns the settings of a store for it.
type trouble func(t *testing.T) redisstore.Config

// troubles are all that a server can be brought to say or do, by the kind of failure that it must be taken for.
var troubles = []struct {
	name string
	is   trouble
	want redisstore.Failure
}{
	{"refused", func(t *testing.T) redisstore.Config {
		return config(net.JoinHostPort("127.0.0.1", strconv.Itoa(redistest.FreePort(t))))
	}, redisstore.Failure{ports.FailureRefused, true, true}},
	{"no route", func(t *testing.T) redisstore.Config {
		return redisstore.DefaultConfig(redistest.Blackhole(t))
	}, redisstore.Failure{ports.FailureDial, true, true}},
	{"no such host", func(*testing.T) redisstore.Config {
		return config("velocity.invalid:6379")
	}, redisstore.Failure{ports.FailureDial, true, true}},
	{"frozen", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t)
		server.Pause()
		return redisstore.DefaultConfig(server.Addr)
	}, redisstore.Failure{ports.FailureTimeout, false, true}},
	{"paused for writes", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t)
		require.NoError(t, plainClient(t, server.Addr).Do(t.Context(), "client", "pause", patient.Milliseconds(), "write").Err())
		return redisstore.DefaultConfig(server.Addr)
	}, redisstore.Failure{ports.FailureTimeout, false, true}},
	{
		"answer cut off", tampered(func(a []byte) ([]byte, bool) { return a[:len(a)/2], false }),
		redisstore.Failure{ports.FailureClosed, false, true},
	},
	{
		"answer garbled", tampered(func([]byte) ([]byte, bool) { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), true }),
		redisstore.Failure{ports.FailureGarbled, false, true},
	},
	{
		"answer of another", tampered(func([]byte) ([]byte, bool) { return []byte("*2\r\n:1\r\n:7\r\n"), true }),
		redisstore.Failure{ports.FailureGarbled, false, true},
	},
	{"no password", serverWith("--requirepass", password), redisstore.Failure{ports.FailureAuth, true, true}},
	{"wrong password", func(t *testing.T) redisstore.Config {
		cfg := serverWith("--requirepass", password)(t)
		cfg.Password = "wrong"
		return cfg
	}, redisstore.Failure{ports.FailureAuth, true, true}},
	{
		"no permission for scripts", serverWith("--user", "default", "on", "nopass", "~*", "+@all", "-evalsha"),
		redisstore.Failure{ports.FailureNoPerm, true, true},
	},
	{
		"no permission for a command of the script", serverWith("--user", "default", "on", "nopass", "~*", "+@all", "-hset"),
		redisstore.Failure{ports.FailureNoPerm, false, true},
	},
	{"too many clients", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t, redistest.Args("--maxclients", "1"))
		require.NoError(t, plainClient(t, server.Addr).Ping(t.Context()).Err())
		return config(server.Addr)
	}, redisstore.Failure{ports.FailureMaxClients, true, true}},
	{
		"full", serverWith("--maxmemory", "1", "--maxmemory-policy", "noeviction"),
		redisstore.Failure{ports.FailureOOM, true, true},
	},
	{"replica", func(t *testing.T) redisstore.Config {
		host, port := hostAndPort(t, redistest.Start(t).Addr)
		return serverWith("--replicaof", host, port)(t)
	}, redisstore.Failure{ports.FailureReadOnly, true, true}},
	{
		"replica without its primary", serverWith("--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "no"),
		redisstore.Failure{ports.FailureReadOnly, true, true},
	},
	{"too few replicas", serverWith("--min-replicas-to-write", "1"), redisstore.Failure{ports.FailureNoReplicas, true, true}},
	{"cannot save", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t, redistest.Args("--save", "3600 1000000"))
		c := plainClient(t, server.Addr)
		require.NoError(t, os.RemoveAll(server.Dir))
		require.NoError(t, c.BgSave(t.Context()).Err())
		require.Eventually(t, func() bool {
			return c.InfoMap(t.Context(), "persistence").Item("Persistence", "rdb_last_bgsave_status") == "err"
		}, patient, time.Millisecond)
		return config(server.Addr)
	}, redisstore.Failure{ports.FailureMisconf, true, true}},
	{"loading", loading, redisstore.Failure{ports.FailureLoading, true, true}},
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
	}, redisstore.Failure{ports.FailureBusy, true, true}},
	{"cluster without slots", serverWith("--cluster-enabled", "yes"), redisstore.Failure{ports.FailureClusterDown, true, true}},
	{"another type", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t)
		require.NoError(t, plainClient(t, server.Addr).Set(t.Context(), redisstore.RedisKey(key("a")), "x", 0).Err())
		return config(server.Addr)
	}, redisstore.Failure{ports.FailureWrongType, true, false}},
	{"no bucket", func(t *testing.T) redisstore.Config {
		server := redistest.Start(t)
		require.NoError(t, plainClient(t, server.Addr).HSet(t.Context(), redisstore.RedisKey(key("a")), "b:burst", "x").Err())
		return config(server.Addr)
	}, redisstore.Failure{ports.FailureCorrupt, true, false}},
	{"TLS, but not there", func(t *testing.T) redisstore.Config { // the server waits for the end of a line
		cfg := redisstore.DefaultConfig(redistest.Start(t).Addr)
		cfg.TLS = true
		return cfg
	}, redisstore.Failure{ports.FailureDial, true, true}},
	{"TLS, by a stranger", func(t *testing.T) redisstore.Config {
		ca, cert, certKey := redistest.Certificates(t)
		cfg := config(redistest.Start(t, redistest.TLS(cert, certKey, ca)).Addr)
		cfg.TLS = true
		return cfg
	}, redisstore.Failure{ports.FailureTLS, true, true}},
}

// reset is how a connection that the server has reset is seen. It closes one with words in it that it has not read, and
// then the reset may overtake its answer: overtaken are the troubles where it does.
var (
	reset     = redisstore.Failure{Kind: ports.FailureClosed, Trips: true}
	overtaken = map[string]bool{"too many clients": true, "no password": true}
)

func serverWith(args ...string) trouble {
	return func(t *testing.T) redisstore.Config { return config(redistest.Start(t, redistest.Args(args...)).Addr) }
}

// tampered has every answer of the script tampered with.
func tampered(what redistest.Tamper) trouble {
	return func(t *testing.T) redisstore.Config {
		p := redistest.StartProxy(t, redistest.Start(t).Addr)
		p.TamperWithEvery(1, what)
		return config(p.Addr)
	}
}

// loading is a server that takes long to read its data.
func loading(t *testing.T) redisstore.Config {
	// It says so only when so many bytes have been read, which are two of these keys.
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
			got := redisstore.Classify(err)
			assert.NotZero(t, s.Stats()[0].Failures[got.Kind], "it is counted")
			if got != reset || !overtaken[c.name] {
				assert.Equal(t, c.want, got, "%v", err)
			}
			want := ports.ErrUnavailable
			if c.want.Kind == ports.FailureWrongType || c.want.Kind == ports.FailureCorrupt {
				want = ports.ErrCorrupt
			}
			require.ErrorIs(t, err, want)
			assert.NotContains(t, err.Error(), password)
		})
	}
}
