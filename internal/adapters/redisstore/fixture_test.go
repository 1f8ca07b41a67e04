package redisstore_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// patient is a budget that no busy machine spends, for tests that are not about the budget.
const patient = 20 * time.Second

func config(addrs ...string) redisstore.Config {
	cfg := redisstore.DefaultConfig(addrs...)
	cfg.TakeTimeout, cfg.DialTimeout = patient, patient
	return cfg
}

func newStore(t testing.TB, cfg redisstore.Config) *redisstore.Store {
	t.Helper()
	s, err := redisstore.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// plainClient is a client of the test's own, which sees the data and not the store.
func plainClient(t testing.TB, addr string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, Protocol: 2, ReadTimeout: time.Minute, PipelinePoolSize: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func limit(t testing.TB, name, rate string, capacity domain.Tokens) domain.Limit {
	t.Helper()
	refill, per, err := domain.ParseRate(rate)
	require.NoError(t, err)
	l, err := domain.NewBucket(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}

func concurrency(t testing.TB, name string, permits domain.Tokens, lease time.Duration) domain.Limit {
	t.Helper()
	l, err := domain.NewConcurrency(name, permits, lease)
	require.NoError(t, err)
	return l
}

// withPermit is the request about the permit of that ID.
func withPermit(id string, req ports.TakeRequest) ports.TakeRequest {
	req.Permit = id
	return req
}

func key(client string) clientkey.BucketKey {
	return clientkey.NewBucketKey("test", clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client"}, client)
}

func take(client string, cost domain.Tokens, limits ...domain.Limit) ports.TakeRequest {
	return ports.TakeRequest{Op: domain.OpTake, Key: key(client), Limits: limits, Cost: cost}
}

// takeOne is one take that must be decided.
func takeOne(t testing.TB, s ports.BucketStore, client string, cost domain.Tokens, limits ...domain.Limit) ports.TakeResult {
	t.Helper()
	r := ports.Take(t.Context(), s, take(client, cost, limits...))
	require.NoError(t, r.Err)
	return r
}

// level is the stored value of the limit, split; it fails the test if there is none.
func level(t testing.TB, c *redis.Client, client, limitName string) string {
	t.Helper()
	v, err := c.HGet(t.Context(), script.RedisKey(key(client)), "b:"+limitName).Result()
	require.NoError(t, err)
	return v
}

// foreign is porttest.Fixture.Foreign of a store.
func foreign(t *testing.T, s *redisstore.Store) func(clientkey.BucketKey, func()) {
	return func(k clientkey.BucketKey, check func()) {
		c, at := s.Manager().GetClient(string(k)), script.RedisKey(k)
		for _, write := range [][]any{
			{"set", at, "foreign"},
			{"rpush", at, "a", "b"},
			{"sadd", at, "a"},
			{"zadd", at, "1", "a"},
			{"xadd", at, "*", "a", "b"},
			{"hset", at, "b:burst", "half a bucket"},
		} {
			require.NoError(t, c.Del(t.Context(), at).Err())
			require.NoError(t, c.Do(t.Context(), write...).Err())
			check()
		}
	}
}

// awaitReplica waits until a replica has a client's level. WAIT would not do: it speaks of the writes of its own
// connection. A replica of a cluster sends readers away unless they say that they mean it.
func awaitReplica(t testing.TB, replica *redis.Client, want, client string) {
	t.Helper()
	require.Eventually(t, func() bool {
		conn := replica.Conn()
		defer func() { _ = conn.Close() }()
		_ = conn.ReadOnly(t.Context()) // refused where there is no cluster
		got, err := conn.HGet(t.Context(), script.RedisKey(key(client)), "b:burst").Result()
		return err == nil && got == want
	}, patient, time.Millisecond)
}

func setClock(t testing.TB, c *redis.Client, now domain.Instant) {
	t.Helper()
	require.NoError(t, c.Set(t.Context(), redisstore.ClockKey, strconv.FormatInt(int64(now), 10), 0).Err())
}

// calls is how often the server has run a command.
func calls(t *testing.T, c *redis.Client, command string) string {
	t.Helper()
	for line := range strings.Lines(c.Info(t.Context(), "commandstats").Val()) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_"+command+":calls="); ok {
			n, _, _ := strings.Cut(rest, ",")
			return n
		}
	}
	return "0"
}
