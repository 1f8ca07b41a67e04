package redisstore_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// borrowing configures a store that uses a client of the test's, which the test's cleanup closes: a second closing, after
// the store's, would be an error.
func borrowing(t *testing.T, client redis.UniversalClient) redisstore.Config {
	t.Helper()
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	cfg := config()
	cfg.Client = client
	return cfg
}

// The clients have go-redis's own defaults, among them three retries.
func TestBorrowed_aLostOrGarbledAnswerIsNeverAskedForAgain(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		server := redistest.Start(t)
		lostAnswers(t, server.Addr, plainClient(t, server.Addr), func(addrs ...string) redisstore.Config {
			client := redis.NewClient(&redis.Options{Addr: addrs[0]})
			require.Positive(t, client.Options().MaxRetries)
			return borrowing(t, client)
		}, tampering, impossible)
	})
	t.Run("cluster", func(t *testing.T) {
		c := redistest.StartCluster(t, 1, 0)
		node := c.Nodes[0]
		plain := c.Client(node)
		lostAnswers(t, node.Addr, plain, func(addrs ...string) redisstore.Config {
			_, port, err := net.SplitHostPort(addrs[0])
			require.NoError(t, err)
			require.NoError(t, plain.ConfigSet(t.Context(), "cluster-announce-port", port).Err()) // so that no client goes past the proxy
			return borrowing(t, redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, MaxRedirects: 5}))
		}, tampering)
	})
}

func TestBorrowed_theClientStaysOpenAndHasItsDatabase(t *testing.T) {
	server := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, DB: 3})
	s := newStore(t, borrowing(t, client))
	takeOne(t, s, "alice", 1, limit(t, "burst", "1/h", 10))
	require.NoError(t, s.Close())
	n, err := client.DBSize(t.Context()).Result()
	require.NoError(t, err, "the client is open")
	assert.EqualValues(t, 1, n, "the bucket is in the client's database")
}

// A caller waits no longer than the budget, though the client would wait for a reply for minutes.
func TestBorrowed_callersWaitNoLongerThanTheBudget(t *testing.T) {
	l := limit(t, "burst", "1/h", 10)
	stalled := func(t *testing.T, server *redistest.Server, client redis.UniversalClient) {
		cfg := borrowing(t, client)
		s := newStore(t, cfg)
		takeOne(t, s, "alice", 1, l)
		cfg.TakeTimeout = 100 * time.Millisecond
		s = newStore(t, cfg)
		server.Pause()
		defer server.Resume()
		began := time.Now()
		r := ports.Take(context.Background(), s, take("alice", 1, l)) //nolint:usetesting // a context without an end
		require.ErrorIs(t, r.Err, ports.ErrUnavailable)
		assert.Less(t, time.Since(began), slack)
	}
	t.Run("client", func(t *testing.T) {
		server := redistest.Start(t)
		stalled(t, server, redis.NewClient(&redis.Options{Addr: server.Addr, ReadTimeout: 2 * patient}))
	})
	t.Run("client with deadlines of calls", func(t *testing.T) {
		server := redistest.Start(t)
		stalled(t, server, redis.NewClient(&redis.Options{Addr: server.Addr, ReadTimeout: 2 * patient, ContextTimeoutEnabled: true}))
	})
	t.Run("cluster", func(t *testing.T) {
		c := redistest.StartCluster(t, 1, 0)
		stalled(t, c.Nodes[0], redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), ReadTimeout: 2 * patient}))
	})
}

// late is a hook of a client that returns only when the call's time is over, after the command has run.
type late struct{ redis.Hook }

func (late) DialHook(next redis.DialHook) redis.DialHook { return next }

func (late) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (late) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := next(ctx, cmd); err != nil || cmd.Name() != "evalsha" {
			return err
		}
		<-ctx.Done()
		cmd.SetErr(ctx.Err())
		return ctx.Err()
	}
}

// What a hook says of the context's end says nothing about what has run.
func TestBorrowed_aTakeThatAHookHoldsBackMayHaveRun(t *testing.T) {
	server := redistest.Start(t)
	l := limit(t, "burst", "1/h", 10)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true}) // so that its hooks are called
	cfg := borrowing(t, client)
	takeOne(t, newStore(t, cfg), "alice", 1, l)
	client.AddHook(late{})
	cfg.TakeTimeout = 200 * time.Millisecond
	r := ports.Take(t.Context(), newStore(t, cfg), take("alice", 1, l))
	require.ErrorIs(t, r.Err, ports.ErrUnavailable)
	require.NotErrorIs(t, r.Err, ports.ErrNotRun)
	assert.Equal(t, []domain.Tokens{8}, levels(t, newStore(t, config(server.Addr)), "alice", l), "it ran")
}

func TestBorrowed_refusesWhatCannotBeExact(t *testing.T) {
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	t.Cleanup(func() { _ = ring.Close() })
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = client.Close() })
	type wrapped struct{ *redis.Client }
	for want, given := range map[string]redis.UniversalClient{
		"REDIS_CLIENT: must not be a *redis.Ring: while a server is down it moves keys": ring,
		"REDIS_CLIENT: redisstore_test.wrapped: must be a *redis.Client":                wrapped{client},
		"REDIS_CLIENT: is a nil *redis.Client":                                          (*redis.Client)(nil),
		"REDIS_CLIENT: is a nil *redis.ClusterClient":                                   (*redis.ClusterClient)(nil),
	} {
		cfg := redisstore.DefaultConfig()
		cfg.Client = given
		_, err := redisstore.New(cfg)
		require.ErrorContains(t, err, want)
	}

	cfg := redisstore.DefaultConfig("a:1")
	cfg.Client, cfg.Password, cfg.Database, cfg.TLS = client, "hunter2", 1, true
	err := cfg.Validate()
	require.Error(t, err)
	assert.Len(t, strings.Split(err.Error(), "\n"), 4)
	for _, setting := range []string{"REDIS_ADDRS", "REDIS_PASSWORD", "REDIS_DATABASE", "REDIS_TLS"} {
		require.ErrorContains(t, err, setting+": ")
	}
	assert.NotContains(t, err.Error(), "hunter2")
}

func TestURLs_haveTheirOwnPasswordAndDatabase(t *testing.T) {
	l := limit(t, "burst", "1/h", 10)
	locked := redistest.Start(t)
	admin := plainClient(t, locked.Addr)
	require.NoError(t, admin.ConfigSet(t.Context(), "requirepass", "pass=word").Err())
	admin = redis.NewClient(&redis.Options{Addr: locked.Addr, Password: "pass=word", DB: 4})
	t.Cleanup(func() { _ = admin.Close() })
	open := redistest.Start(t)
	s := newStore(t, config("one=redis://:pass=word@"+locked.Addr+"/4", "redis://"+open.Addr))
	for _, client := range strings.Fields("a b c d e f g h") { // some on each shard
		takeOne(t, s, client, 1, l)
	}
	locker, err := admin.DBSize(t.Context()).Result()
	require.NoError(t, err)
	assert.Positive(t, locker)
	other, err := plainClient(t, open.Addr).DBSize(t.Context()).Result()
	require.NoError(t, err)
	assert.EqualValues(t, 8, locker+other)
	shards := s.Manager().Shards()
	assert.Equal(t, []string{"one", open.Addr}, []string{shards[0].Identity, shards[1].Identity})
}
