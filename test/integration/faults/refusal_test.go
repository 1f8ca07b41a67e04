//go:build faults

package faults

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// refusalFaults are servers that answer with an error instead of a decision.
func refusalFaults() []fault {
	return []fault{
		refusal("out of memory", direct(redistest.Args("--maxmemory-policy", "noeviction")),
			[]any{"config", "set", "maxmemory", 1}, []any{"config", "set", "maxmemory", 0}),
		refusal("read-only replica", direct(), []any{"replicaof", "127.0.0.1", 1}, []any{"replicaof", "no", "one"}),
		refusal("replica without its primary", direct(redistest.Args("--replica-serve-stale-data", "no")),
			[]any{"replicaof", "127.0.0.1", 1}, []any{"replicaof", "no", "one"}),
		refusal("too few replicas", direct(),
			[]any{"config", "set", "min-replicas-to-write", 1}, []any{"config", "set", "min-replicas-to-write", 0}),
		{
			kind: "data cannot be saved", fleet: direct(redistest.Args("--save", "3600 1", "--enable-protected-configs", "local")),
			begin: func(t *testing.T, f *fleet) {
				c := admin(t, f.servers[0])
				require.NoError(t, c.Do(t.Context(), "config", "set", "dir", "/proc").Err())
				require.NoError(t, c.BgSave(t.Context()).Err())
				require.Eventually(t, func() bool { return infoOf(t, c, "persistence", "rdb_last_bgsave_status") == "err" },
					waitTimeout, 10*time.Millisecond)
			},
			end: func(t *testing.T, f *fleet) {
				do(t, f, "config", "set", "stop-writes-on-bgsave-error", "no")
			},
			answers: byPolicy,
		},
		{
			kind: "wrong password", fleet: direct(),
			begin: func(t *testing.T, f *fleet) {
				do(t, f, "config", "set", "requirepass", "another")
				asAdmin(t, f, "another", "client", "kill", "type", "normal", "skipme", "yes")
			},
			end:     func(t *testing.T, f *fleet) { asAdmin(t, f, "another", "config", "set", "requirepass", "") },
			answers: byPolicy,
		},
		refusal("no permission", direct(),
			[]any{"acl", "setuser", "default", "-evalsha", "-eval"}, []any{"acl", "setuser", "default", "+evalsha", "+eval"}),
		refusal("no permission for a command of the script", direct(),
			[]any{"acl", "setuser", "default", "-hset"}, []any{"acl", "setuser", "default", "+hset"}),
		tlsFault(),
		{
			kind: "busy with a script", fleet: direct(redistest.Args("--busy-reply-threshold", "100")),
			begin: func(t *testing.T, f *fleet) {
				c := admin(t, f.servers[0])
				go c.Eval(t.Context(), "while true do end", nil)
			},
			end:     func(t *testing.T, f *fleet) { do(t, f, "script", "kill") },
			answers: byPolicy,
		},
		{
			kind: "too many clients", fleet: direct(),
			begin: func(t *testing.T, f *fleet) {
				c := admin(t, f.servers[0], func(o *redis.Options) { o.PoolSize = 1 })
				require.NoError(t, c.Do(t.Context(), "config", "set", "maxclients", 1).Err())
				require.NoError(t, c.Do(t.Context(), "client", "kill", "type", "normal", "skipme", "yes").Err())
				f.keep = c
			},
			end: func(t *testing.T, f *fleet) {
				require.NoError(t, f.keep.Do(t.Context(), "config", "set", "maxclients", 10_000).Err())
			},
			answers: byPolicy,
		},
	}
}

// refusal returns a fault that begins with one command and ends with another.
func refusal(kind string, cfg fleetConfig, begin, end []any) fault {
	return fault{
		kind: kind, fleet: cfg, answers: byPolicy,
		begin: func(t *testing.T, f *fleet) { do(t, f, begin...) },
		end:   func(t *testing.T, f *fleet) { do(t, f, end...) },
	}
}

// asAdmin sends a command to the first server with a password.
func asAdmin(t testing.TB, f *fleet, password string, args ...any) {
	t.Helper()
	c := admin(t, f.servers[0], func(o *redis.Options) { o.Password = password })
	require.NoError(t, c.Do(t.Context(), args...).Err(), args)
}

// tlsFault replaces the server's certificate by one of an authority that the store does not trust.
func tlsFault() fault {
	var certFile, keyFile, otherCert, otherKey string
	f := fault{kind: "untrusted certificate", answers: byPolicy}
	swap := func(t *testing.T, f *fleet, cert, key string) {
		c := admin(t, f.servers[0], insecure)
		require.NoError(t, c.Do(t.Context(), "config", "set", "tls-cert-file", cert, "tls-key-file", key).Err())
		require.NoError(t, c.Do(t.Context(), "client", "kill", "type", "normal", "skipme", "yes").Err())
	}
	f.prepare = func(t *testing.T) fleetConfig {
		var caFile string
		caFile, certFile, keyFile = redistest.Certificates(t)
		_, otherCert, otherKey = redistest.Certificates(t)
		cfg := direct(redistest.TLS(certFile, keyFile, caFile))
		cfg.adapt = func(c *redisstore.Config) { c.TLS, c.TLSCAFile = true, caFile }
		return cfg
	}
	f.begin = func(t *testing.T, fl *fleet) { swap(t, fl, otherCert, otherKey) }
	f.end = func(t *testing.T, fl *fleet) { swap(t, fl, certFile, keyFile) }
	return f
}
