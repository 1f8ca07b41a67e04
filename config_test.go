package velocity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// bobs are the credentials of the user bob.
func bobs(context.Context) (username, password string, err error) { return "bob", "hunter2", nil }

// Errors name the fields of Config, and never an environment variable, a field of a policy file, or a secret.
func TestNew_reportsEveryViolation(t *testing.T) {
	limits := []velocity.Limit{velocity.PerSecond(1)}
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	t.Cleanup(func() { _, _ = client.Close(), ring.Close() })
	at := "127.0.0.1:1"
	for _, c := range []struct {
		want string // the lines, with | between
		cfg  velocity.Config
	}{
		{"there are no limits: set Limits or Policies", velocity.Config{}},
		{`policy "default": Burst: 0: must be`, velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(5).Burst(0)}}},
		{`policy "default": Refill and Per: 0s: the time must be`, velocity.Config{Limits: []velocity.Limit{{Capacity: 1, Refill: 1}}}},
		{`policy "default": Limits: "default": there are two limits of this name: give them names with Named`, velocity.Config{Limits: append(limits, limits...)}},
		{`policy "a": a limit is empty|policy "a": Failure: "bogus": must be|` +
			`policy "A": Name: "A": must match|policy "A": Limits: "A": there are two|policy "A": Limits: 0: there must be|policy "A": there are two policies`, velocity.Config{Policies: []velocity.Policy{
			{Name: "a", Limits: []velocity.Limit{{}}, Failure: "bogus"},
			{Name: "A", Limits: append(limits, limits...)},
			{Name: "A"},
		}}},
		{`policy "A": Name: "A": must match`, velocity.Config{Policies: []velocity.Policy{{Name: "A", Limits: limits}}}},
		{
			`policy "default": Quota: 0: must be from 1 to 10^12`,
			velocity.Config{Limits: []velocity.Limit{velocity.Quota(0, velocity.Day)}},
		},
		{`policy "default": Period: "d": write day|policy "default": Zone: "berlin": is not a name|policy "default": Anchor: "1/15": must be|` +
			`policy "default": Quota: -1: must be from 1`, velocity.Config{Limits: []velocity.Limit{velocity.Quota(-1, "d").In("berlin").From("1/15")}}},
		{`policy "default": Period: "": must be minute, hour`, velocity.Config{Limits: []velocity.Limit{{Quota: 1}}}},
		{`policy "default": Zone: "Europe/Berlin": only a quota per day`, velocity.Config{Limits: []velocity.Limit{velocity.Quota(1, velocity.Hour).In("Europe/Berlin")}}},
		{`policy "default": Period: "1ms": a duration must be from 1s`, velocity.Config{Limits: []velocity.Limit{velocity.Quota(1, velocity.Every(time.Millisecond))}}},
		{`policy "default": a limit has fields of one kind`, velocity.Config{Limits: []velocity.Limit{velocity.Quota(10, velocity.Day).Burst(10)}}},
		{`policy "default": a limit has fields of one kind`, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(10).In("UTC")}}},
		{`policy "default": a limit has fields of one kind`, velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(10).Burst(10)}}},
		{`policy "default": a limit has fields of one kind`, velocity.Config{Limits: []velocity.Limit{velocity.Quota(10, velocity.Day).WithLease(time.Minute)}}},
		{`policy "default": Concurrent: 0: must be from 1 to 1000000`, velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(0)}}},
		{`policy "default": Concurrent: -1: must be|policy "default": Lease: 1ms: must be from 1s to 24h`, velocity.Config{Limits: []velocity.Limit{
			velocity.Concurrent(-1).WithLease(time.Millisecond),
		}}},
		{`policy "default": Cost: 1: a concurrency limit always counts one permit`, velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(5).WithCost(1)}}},
		{`policy "a": MaxWait: -1s: must be from 0s to 1h`, velocity.Config{Policies: []velocity.Policy{{Name: "a", Limits: limits, MaxWait: -time.Second}}}},
		{`policy "a": MaxWait: 1s: needs a limit with a rate`, velocity.Config{Policies: []velocity.Policy{
			{Name: "a", Limits: []velocity.Limit{velocity.Concurrent(1)}, MaxWait: time.Second},
		}}},
		{`policy "default": PerSecond: 0: must be from 1 to 10^12`, velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(0)}}},
		{`policy "default": PerMinute: -1: must be from 1 to 10^12`, velocity.Config{Limits: []velocity.Limit{velocity.PerMinute(-1)}}},
		{`policy "default": PerHour: 1/h: cannot be counted exactly`, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(1).Burst(1e12)}}},
		{`policy "default": Burst: -1: must be|policy "default": PerHour: 0: must refill`, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(0).Burst(-1)}}},
		{`policy "default": Capacity: 0: must be|policy "default": Refill and Per: 0: must refill`, velocity.Config{Limits: []velocity.Limit{{Per: time.Second}}}},
		{`policy "default": a limit is empty`, velocity.Config{Limits: []velocity.Limit{{}}}},
		{`policy "default": Cost: 11: must be from 1 to 10`, velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(10).WithCost(11)}}},
		{`policy "default": Cost: -1: must be from 1 to 10`, velocity.Config{Limits: []velocity.Limit{velocity.Quota(10, velocity.Day).WithCost(-1)}}},
		{
			`policy "default": limit "daily": Zone: "Berlin": is not a name|policy "default": limit "tokens": Cost: 11: must be`,
			velocity.Config{Limits: []velocity.Limit{
				velocity.PerSecond(5), velocity.Quota(10, velocity.Day).In("Berlin").Named("daily"), velocity.PerSecond(10).WithCost(11).Named("tokens"),
			}},
		},
		{
			`policy "default": limit "burst": Burst: 0: must be|policy "default": limit "daily": Period: "d": write day|` +
				`policy "default": limit "odd": a limit has fields of one kind|policy "default": Limits: "burst": there are two`,
			velocity.Config{Limits: []velocity.Limit{
				velocity.PerSecond(5).Burst(0).Named("burst"), velocity.Quota(5, "d").Named("daily"),
				velocity.PerHour(10).In("UTC").Named("odd"), velocity.PerSecond(1).Named("burst"),
			}},
		},
		{`policy "a": Limits: 0: there must be`, velocity.Config{Policies: []velocity.Policy{{Name: "a"}}}},
		{`Failure: "panic": must be open, closed or local`, velocity.Config{Limits: limits, Failure: "panic"}},
		{`Failure: "bogus": must be`, velocity.Config{Policies: []velocity.Policy{{Name: "default", Limits: limits, Failure: velocity.Open}}, Failure: "bogus"}},
		{`policy "a": Failure: "bogus": must be`, velocity.Config{Policies: []velocity.Policy{{Name: "a", Limits: limits, Failure: "bogus"}}}},
		{`policy "default": there are two policies of this name`, velocity.Config{Limits: limits, Policies: []velocity.Policy{{Name: "default", Limits: limits}}}},
		{"MaxKeys: -1: must be from|TakeTimeout: -1s: must be from", velocity.Config{Limits: limits, Redis: []string{at}, MaxKeys: -1, TakeTimeout: -time.Second}},

		{`Redis: entry 1: "redis": must be host:port`, velocity.Config{Limits: limits, Redis: []string{"redis"}}},
		{"Redis: entry 1: must be host:port; a user and a password belong in RedisUsername and RedisPassword", velocity.Config{Limits: limits, Redis: []string{":hunter2@a:1"}}},
		{`Redis: "a:1": redis:// is without TLS, but RedisTLSConfig is set`, velocity.Config{Limits: limits, Redis: []string{"redis://:hunter2@a:1"}, RedisTLSConfig: &tls.Config{}}},
		{`RedisUsername: "bob": needs RedisPassword`, velocity.Config{Limits: limits, Redis: []string{at}, RedisUsername: "bob"}},
		{`RedisCAFile: "x": has no effect without RedisTLS=true`, velocity.Config{Limits: limits, Redis: []string{at}, RedisCAFile: "x"}},
		{`RedisCAFile: cannot be read: open x: no such file`, velocity.Config{Limits: limits, Redis: []string{at}, RedisTLS: true, RedisCAFile: "x"}},
		{`RedisDatabase: 1: has no effect`, velocity.Config{Limits: limits, Redis: []string{at}, RedisCluster: true, RedisDatabase: 1}},
		{"RedisCluster: true: has no effect with RedisSentinel", velocity.Config{Limits: limits, Redis: []string{at}, RedisCluster: true, RedisSentinel: "main"}},
		{"RedisSentinel: \"a b\": must be the name", velocity.Config{Limits: limits, Redis: []string{at}, RedisSentinel: "a b"}},
		{"RedisClient: must not be a *redis.Ring", velocity.Config{Limits: limits, RedisClient: ring}},
		{`Redis: has no effect with RedisClient`, velocity.Config{Limits: limits, RedisClient: client, Redis: []string{at}}},
		{"Now: has no effect in Redis", velocity.Config{Limits: limits, RedisClient: client, Now: time.Now}},
		{"RedisPassword: has no effect without Redis", velocity.Config{Limits: limits, RedisPassword: "hunter2"}},
		{"RedisCredentials: has no effect without Redis", velocity.Config{Limits: limits, RedisCredentials: bobs}},
		{"RedisCredentials: has no effect with RedisClient", velocity.Config{Limits: limits, RedisClient: client, RedisCredentials: bobs}},
		{`RedisUsername: "bob": has no effect with RedisCredentials|RedisPassword: has no effect with RedisCredentials`, velocity.Config{
			Limits: limits, Redis: []string{at}, RedisUsername: "bob", RedisPassword: "hunter2", RedisCredentials: bobs,
		}},
		{"RedisSentinel: has no effect without Redis", velocity.Config{Limits: limits, RedisSentinel: "main"}},
		{"RedisUsername: has no|RedisPassword: has no|RedisDatabase: has no|RedisTLS: has no|RedisCAFile: has no|RedisTLSConfig: has no|RedisCluster: has no|" +
			"RedisSentinel: has no|TakeTimeout: has no effect without Redis", velocity.Config{
			Limits: limits, RedisUsername: "bob", RedisPassword: "hunter2", RedisDatabase: 1, RedisTLS: true, RedisCAFile: "x",
			RedisTLSConfig: &tls.Config{}, RedisCluster: true, RedisSentinel: "main", TakeTimeout: time.Second,
		}},
	} {
		_, err := velocity.New(c.cfg)
		require.Error(t, err, c.want)
		found, wanted := strings.Split(err.Error(), "\n"), strings.Split(c.want, "|")
		require.Len(t, found, len(wanted), "%v", err)
		for i, want := range wanted {
			if i == 0 {
				want = "velocity: " + want
			}
			assert.True(t, strings.HasPrefix(found[i], want), "%s\nis not\n%s", found[i], want)
		}
		assert.NotContains(t, err.Error(), "hunter2")
		assert.NotRegexp(t, "[A-Z]_", err.Error(), "no name of an environment variable")
	}
}

func TestNew_theFailureModeAppliesToPoliciesWithoutOne(t *testing.T) {
	l := open(t, velocity.Config{
		Redis: []string{"127.0.0.1:1"}, Failure: velocity.Closed, OnFailure: func(string, error) {},
		Policies: []velocity.Policy{
			{Name: "default", Limits: []velocity.Limit{velocity.PerHour(1)}},
			{Name: "mine", Limits: []velocity.Limit{velocity.PerHour(1)}, Failure: velocity.Open},
		},
	})
	ok, err := l.Allow(t.Context(), "alice")
	require.NoError(t, err)
	assert.False(t, ok)
	ok, err = of(t, l, "mine").Allow(t.Context(), "alice")
	require.NoError(t, err)
	assert.True(t, ok)
}

func TestConfig_nowIsTheClockInMemory(t *testing.T) {
	var start time.Time     // the zero time, as a test may begin
	var passed atomic.Int64 // the limiter's goroutine calls Now, too
	now := func() time.Time { return start.Add(time.Duration(passed.Load())) }
	l := open(t, velocity.Config{Limits: []velocity.Limit{velocity.PerMinute(2)}, Now: now})
	for _, step := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, true}, {0, false}, {29 * time.Second, false}, {time.Second, true}, {-time.Hour, false}, {time.Hour + time.Minute, true}} {
		passed.Add(int64(step.after))
		ok, err := l.Allow(t.Context(), "alice")
		require.NoError(t, err)
		assert.Equal(t, step.want, ok, "%v", step)
	}
}

// trusting returns the settings of TLS that trust this authority alone.
func trusting(t *testing.T, caFile string) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(caFile)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// takesTwo requires that a key gets exactly its two tokens.
func takesTwo(t *testing.T, cfg velocity.Config) {
	t.Helper()
	cfg.Limits, cfg.Failure, cfg.TakeTimeout = []velocity.Limit{velocity.PerHour(2)}, velocity.Closed, 20*time.Second
	cfg.OnFailure = func(_ string, cause error) { assert.NoError(t, cause) }
	l := open(t, cfg)
	require.NoError(t, l.Ping(t.Context()))
	for _, want := range []bool{true, true, false} {
		ok, err := l.Allow(t.Context(), "alice")
		require.NoError(t, err)
		assert.Equal(t, want, ok)
	}
	require.NoError(t, l.Reset(t.Context(), "alice"))
}

func TestConfig_reachesEveryKindOfRedis(t *testing.T) {
	server := redistest.Start(t)
	t.Run("URL with a password and a database", func(t *testing.T) {
		locked := redistest.Start(t)
		admin := redis.NewClient(&redis.Options{Addr: locked.Addr})
		t.Cleanup(func() { _ = admin.Close() })
		require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "bob", "on", ">hunter2", "~*", "+@all").Err())
		require.NoError(t, admin.ConfigSet(t.Context(), "requirepass", "other").Err())
		takesTwo(t, velocity.Config{Redis: []string{"redis://bob:hunter2@" + locked.Addr + "/3"}})
		takesTwo(t, velocity.Config{Redis: []string{locked.Addr}, RedisUsername: "bob", RedisPassword: "hunter2", RedisDatabase: 4})
		takesTwo(t, velocity.Config{Redis: []string{locked.Addr}, RedisDatabase: 5, RedisCredentials: bobs})
	})
	t.Run("TLS", func(t *testing.T) {
		caFile, certFile, keyFile := redistest.Certificates(t)
		secure := redistest.Start(t, redistest.TLS(certFile, keyFile, caFile))
		takesTwo(t, velocity.Config{Redis: []string{"rediss://" + secure.Addr}, RedisTLSConfig: trusting(t, caFile)})
		takesTwo(t, velocity.Config{Redis: []string{secure.Addr}, RedisTLSConfig: trusting(t, caFile)})
	})
	t.Run("several", func(t *testing.T) {
		_, addrs := redistest.StartN(t, 3)
		takesTwo(t, velocity.Config{Redis: []string{"a=" + addrs[0], "redis://" + addrs[1], "b=redis://" + addrs[2] + "/2"}})
	})
	t.Run("a client of the caller's", func(t *testing.T) {
		client := redis.NewClient(&redis.Options{Addr: server.Addr, DB: 5})
		takesTwo(t, velocity.Config{RedisClient: client})
		l, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerHour(1)}, RedisClient: client})
		require.NoError(t, err)
		require.NoError(t, l.Close())
		require.NoError(t, client.Ping(t.Context()).Err(), "it stays open")
		require.NoError(t, client.Close())
	})
	t.Run("Cluster", func(t *testing.T) {
		c := redistest.StartCluster(t, 3, 0)
		takesTwo(t, velocity.Config{Redis: c.Addrs(), RedisCluster: true})
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
		takesTwo(t, velocity.Config{RedisClient: client})
		require.NoError(t, client.Close())
	})
	t.Run("Sentinel", func(t *testing.T) {
		s := redistest.StartSentinel(t)
		takesTwo(t, velocity.Config{Redis: s.Addrs(), RedisSentinel: redistest.SentinelMaster})
		client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: redistest.SentinelMaster, SentinelAddrs: s.Addrs()})
		takesTwo(t, velocity.Config{RedisClient: client})
		require.NoError(t, client.Close())
	})
}
