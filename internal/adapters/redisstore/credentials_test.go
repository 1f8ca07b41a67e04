package redisstore_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// changing are credentials whose password changes.
type changing struct {
	username string
	password atomic.Pointer[string]
	asked    atomic.Int64
}

func newChanging(username, password string) *changing {
	c := &changing{username: username}
	c.password.Store(&password)
	return c
}

func (c *changing) set(password string) { c.password.Store(&password) }

func (c *changing) get(context.Context) (username, password string, err error) {
	c.asked.Add(1)
	return c.username, *c.password.Load(), nil
}

// awaitConnections returns when n more connections have asked for the password, or when a call has failed.
func awaitConnections(t *testing.T, c *changing, n int64, failed *atomic.Int64) {
	t.Helper()
	asked := c.asked.Load()
	require.Eventually(t, func() bool { return c.asked.Load() >= asked+n || failed.Load() > 0 }, patient, time.Millisecond)
}

// A password is rotated as operators do: the new one is added in Redis, then it stands in the file, then the old one is removed.
func TestCredentials_rotateUnderLoadWithoutAFailure(t *testing.T) {
	server := redistest.Start(t, redistest.Args(append([]string{"--user", "limiter", "on", ">p0"}, limiterACL...)...))
	admin := plainClient(t, server.Addr)
	credentials := newChanging("limiter", "p0")
	cfg := redisstore.WithConnLifetime(config(server.Addr), 50*time.Millisecond)
	cfg.Credentials = credentials.get
	s := newStore(t, cfg)
	l := limit(t, "burst", "1/h", 500_000)

	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var decided, failed atomic.Int64
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				if r := ports.Take(t.Context(), s, take("a", 1, l)); r.Err != nil {
					failed.Add(1)
					assert.NoError(t, r.Err)
					return
				}
				decided.Add(1)
			}
		})
	}
	for _, next := range []string{"p1", "p2", "p3"} {
		old := *credentials.password.Load()
		require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "limiter", ">"+next).Err())
		credentials.set(next)
		awaitConnections(t, credentials, 5, &failed) // those that asked for the old one before have connected
		require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "limiter", "<"+old).Err())
		awaitConnections(t, credentials, 3, &failed)
	}
	stop()
	load.Wait()
	assert.Zero(t, failed.Load())
	assert.Positive(t, decided.Load())
	left := l.Remaining(takeOne(t, s, "a", 0, l).States[0])
	assert.Equal(t, domain.Tokens(500_000-decided.Load()), left, "each take once")
}

// Redis itself does not close connections whose password was removed.
func TestCredentials_aRemovedPasswordEndsNoConnection(t *testing.T) {
	server := redistest.Start(t, redistest.Args(append([]string{"--user", "limiter", "on", ">old"}, limiterACL...)...))
	admin := plainClient(t, server.Addr)
	credentials := newChanging("limiter", "old")
	cfg := config(server.Addr)
	cfg.Credentials = credentials.get
	s := newStore(t, cfg)
	l := limit(t, "burst", "1/h", 10)
	takeOne(t, s, "a", 1, l)
	require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "limiter", "<old", ">new").Err())
	credentials.set("new")
	takeOne(t, s, "a", 1, l)
	require.NoError(t, admin.Do(t.Context(), "client", "kill", "user", "limiter").Err())
	require.Eventually(t, func() bool { // a connection that is closed is noticed before it is used, or after
		r := ports.Take(t.Context(), s, take("a", 1, l))
		return r.Err == nil
	}, patient, time.Millisecond)
	assert.GreaterOrEqual(t, credentials.asked.Load(), int64(2))
}

func TestCredentials_anErrorFailsTheCallBeforeItIsSent(t *testing.T) {
	server := redistest.Start(t)
	for name, credentials := range map[string]func(context.Context) (string, string, error){
		"an error": func(context.Context) (string, string, error) { return "", "", errors.New("no token yet") },
		"a panic":  func(context.Context) (string, string, error) { panic("no token yet") },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(server.Addr)
			cfg.Credentials = credentials
			r := ports.Take(t.Context(), newStore(t, cfg), take("a", 1, limit(t, "burst", "1/h", 10)))
			require.ErrorIs(t, r.Err, ports.ErrUnavailable)
			assert.ErrorContains(t, r.Err, "not carried out: the credentials are not known: ")
			assert.ErrorContains(t, r.Err, "no token yet")
		})
	}
}

func TestCredentials_aURLHasPrecedence(t *testing.T) {
	server := redistest.Start(t, redistest.Args("--requirepass", "other"), withUser(limiterACL...))
	cfg := config("redis://limiter:" + password + "@" + server.Addr)
	cfg.Credentials = newChanging("limiter", "wrong").get
	takeOne(t, newStore(t, cfg), "a", 1, limit(t, "burst", "1/h", 10))
	cfg = config("redis://limiter:" + password + "@" + server.Addr)
	cfg.Password = "wrong"
	takeOne(t, newStore(t, cfg), "a", 1, limit(t, "burst", "1/h", 10))
}

// The sentinels' password changes, too. It may be asked for again when a primary is looked for.
func TestCredentials_ofSentinelsChange(t *testing.T) {
	sentinels := redistest.StartSentinel(t)
	require.NoError(t, sentinels.Client(sentinels.Watchers[0]).Ping(t.Context()).Err())
	credentials := newChanging("watcher", "old")
	for _, w := range sentinels.Watchers {
		c := sentinels.Client(w)
		require.NoError(t, c.Do(t.Context(), "acl", "setuser", "watcher", "on", ">old", "+@all", "&*", "~*").Err())
		require.NoError(t, c.Do(t.Context(), "acl", "setuser", "default", "-sentinel|get-master-addr-by-name", "-sentinel|sentinels").Err())
	}
	cfg := redisstore.WithConnLifetime(sentinelConfig(sentinels.Addrs()...), 50*time.Millisecond)
	cfg.SentinelCredentials = credentials.get
	s := newStore(t, cfg)
	l := limit(t, "burst", "1/h", 500_000)
	takeOne(t, s, "a", 1, l)
	for _, w := range sentinels.Watchers {
		require.NoError(t, sentinels.Client(w).Do(t.Context(), "acl", "setuser", "watcher", ">new", "<old").Err())
	}
	credentials.set("new")
	takeOne(t, newStore(t, cfg), "a", 1, l)

	credentials.set("old")
	r := ports.Take(t.Context(), newStore(t, cfg), take("a", 1, l))
	require.ErrorIs(t, r.Err, ports.ErrUnavailable)
	assert.NotContains(t, r.Err.Error(), "old")
}

// A client stays on its shard when the address is written as a URL, and when the URL's user or password changes.
func TestRouting_doesNotDependOnLogins(t *testing.T) {
	plain := []string{"10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379"}
	digest, owners := "", []string(nil)
	for _, form := range []string{"%s", "redis://%s", "redis://u:p@%s", "rediss://other:p%%40ss@%s/0", "redis://:p@%s/"} {
		entries := make([]string, len(plain))
		for i, addr := range plain {
			entries[i] = strings.NewReplacer("%s", addr, "%%", "%").Replace(form)
		}
		s := newStore(t, config(entries...))
		var got []string
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"} {
			got = append(got, s.Manager().GetClient(string(key(name))).Options().Addr)
		}
		if digest == "" {
			digest, owners = s.Manager().RoutingDigest(), got
		}
		assert.Equal(t, owners, got, form)
		assert.Equal(t, digest, s.Manager().RoutingDigest(), form)
		for _, shard := range s.Manager().Shards() {
			assert.NotContains(t, shard.Identity+shard.Addr, "@")
		}
	}
	other := newStore(t, config("redis://u:p@10.0.0.1:6379/1", plain[1], plain[2]))
	assert.NotEqual(t, digest, other.Manager().RoutingDigest(), "another database is another shard")
}
