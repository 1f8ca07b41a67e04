package settings

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// setenv makes these the only settings of the environment.
func setenv(t testing.TB, vars map[string]string) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, prefix) || name == "REDIS_ADDR" {
			t.Setenv(name, value) // restores it after the test
			require.NoError(t, os.Unsetenv(name))
		}
	}
	for name, value := range vars {
		t.Setenv(name, value)
	}
}

// lines returns the violations of these settings.
func lines(t *testing.T, vars map[string]string) []string {
	t.Helper()
	setenv(t, vars)
	_, err := Load()
	var out []string
	if err != nil {
		for _, v := range Violations(err) {
			out = append(out, v.Error())
		}
	}
	return out
}

func TestLoad_defaults(t *testing.T) {
	setenv(t, nil)
	cfg, err := Load()
	require.NoError(t, err)
	assert.Equal(t, ":3000", cfg.HTTP.Addr)
	assert.Equal(t, "127.0.0.1:3001", cfg.Admin.Addr)
	assert.Equal(t, 50*time.Millisecond, cfg.Redis.TakeTimeout)
	assert.Equal(t, 10_000, cfg.Waiting.Max)
	assert.Equal(t, telemetry.DecisionsAll, cfg.Log.LogDecisions)
	assert.False(t, cfg.Store.UsesRedis(&cfg.Redis))

	p, err := cfg.Policy.Single()
	require.NoError(t, err)
	assert.Equal(t, "default", p.Name)
	assert.Equal(t, "ip", p.Key.String())
	assert.Equal(t, policy.FailOpen, p.OnStoreFailure)
	require.Len(t, p.Limits, 1)
	assert.Equal(t, "default: 5/s, capacity 10", p.Limits[0].String())
}

func TestLoad_emptyCountsAsNotSet(t *testing.T) {
	setenv(t, map[string]string{"VELOCITY_RATE": "", "VELOCITY_CAPACITY": " ", "VELOCITY_TAKE_TIMEOUT": "", "REDIS_ADDR": ""})
	cfg, err := Load()
	require.NoError(t, err)
	assert.Equal(t, "5/s", cfg.Policy.Rate)
	assert.Equal(t, int64(10), cfg.Policy.Capacity)
	assert.Equal(t, 50*time.Millisecond, cfg.Redis.TakeTimeout)
}

// envconfig by itself falls back to a variable without the prefix.
func TestLoad_ignoresVariablesWithoutThePrefix(t *testing.T) {
	setenv(t, map[string]string{"HTTP_ADDR": ":1", "CAPACITY": "99", "API_TOKEN": "somebody-else's"})
	cfg, err := Load()
	require.NoError(t, err)
	assert.Equal(t, ":3000", cfg.HTTP.Addr)
	assert.Equal(t, int64(10), cfg.Policy.Capacity)
	assert.Empty(t, string(cfg.HTTP.APIToken))
}

func TestLoad_trimsTextsAndLists(t *testing.T) {
	setenv(t, map[string]string{
		"VELOCITY_RATE": " 100/m ", "VELOCITY_REDIS_ADDRS": "a:1, b:2 ,c:3", "VELOCITY_ADMIN_HOSTS": " ops.example , x",
	})
	cfg, err := Load()
	require.NoError(t, err)
	assert.Equal(t, "100/m", cfg.Policy.Rate)
	assert.Equal(t, []string{"a:1", "b:2", "c:3"}, cfg.Redis.Addrs)
	assert.Equal(t, []string{"ops.example", "x"}, cfg.Admin.Hosts)
}

func TestLoad_limitHeadersAndOrigins(t *testing.T) {
	setenv(t, map[string]string{"VELOCITY_LIMIT_HEADERS": ""})
	cfg, err := Load()
	require.NoError(t, err)
	assert.Equal(t, decision.AllHeaders, cfg.HTTP.Headers())
	setenv(t, map[string]string{"VELOCITY_LIMIT_HEADERS": " ratelimit ", "VELOCITY_CORS_ORIGINS": "https://a.example, https://b.example:8443"})
	cfg, err = Load()
	require.NoError(t, err)
	assert.Equal(t, decision.NoXRateLimit, cfg.HTTP.Headers())
	assert.Equal(t, []string{"https://a.example", "https://b.example:8443"}, cfg.HTTP.CORSOrigins)
	assert.Equal(t, []string{
		`VELOCITY_CORS_ORIGINS: "": must be scheme://host, perhaps with a port, as in https://app.example.com, or *`,
		`VELOCITY_LIMIT_HEADERS: "RateLimit": must be x-ratelimit, ratelimit, or both with a comma between: "RateLimit" is not x-ratelimit or ratelimit`,
	}, lines(t, map[string]string{"VELOCITY_LIMIT_HEADERS": "RateLimit", "VELOCITY_CORS_ORIGINS": "https://a.example,"}))
}

func TestLoad_selectsTheStore(t *testing.T) {
	tests := []struct {
		store, addr, addrs string
		wantRedis          bool
		wantAddrs          []string
	}{
		{"", "", "", false, nil},
		{"auto", "", "", false, nil},
		{"", "redis:6379", "", true, []string{"redis:6379"}},
		{"", "", "a:1,b:2", true, []string{"a:1", "b:2"}},
		{"", "a:1, b:2", "a:1,b:2", true, []string{"a:1", "b:2"}},
		{"redis", "a:1", "", true, []string{"a:1"}},
		{"memory", "a:1", "", false, []string{"a:1"}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %s %s", tt.store, tt.addr, tt.addrs), func(t *testing.T) {
			setenv(t, map[string]string{
				"VELOCITY_STORE": tt.store, "REDIS_ADDR": tt.addr, "VELOCITY_REDIS_ADDRS": tt.addrs,
			})
			cfg, err := Load()
			require.NoError(t, err)
			assert.Equal(t, tt.wantRedis, cfg.Store.UsesRedis(&cfg.Redis))
			assert.Equal(t, tt.wantAddrs, cfg.Redis.Addrs)
		})
	}
}

func TestLoad_setsTheTopology(t *testing.T) {
	for store, want := range map[string]redisstore.Topology{
		"auto":           redisstore.TopologyShards,
		"redis":          redisstore.TopologyShards,
		"redis-cluster":  redisstore.TopologyCluster,
		"redis-sentinel": redisstore.TopologySentinel,
	} {
		vars := map[string]string{"VELOCITY_STORE": store, "VELOCITY_REDIS_ADDRS": "a:1,b:2"}
		if want == redisstore.TopologySentinel {
			vars["VELOCITY_REDIS_SENTINEL_MASTER"] = "main"
		}
		setenv(t, vars)
		cfg, err := Load()
		require.NoError(t, err, store)
		assert.True(t, cfg.Store.UsesRedis(&cfg.Redis), store)
		assert.Equal(t, want, cfg.Redis.Topology, store)
	}
}

func TestLoad_violationsOfTheStore(t *testing.T) {
	tests := []struct {
		vars map[string]string
		want string
	}{
		{map[string]string{"VELOCITY_STORE": "disk"}, `VELOCITY_STORE: "disk": must be auto, memory, redis, redis-cluster or redis-sentinel`},
		{
			map[string]string{"VELOCITY_STORE": "redis-sentinel", "VELOCITY_REDIS_ADDRS": "a:1"},
			`VELOCITY_REDIS_SENTINEL_MASTER: "": must be the name of the primary in the sentinels' configuration`,
		},
		{map[string]string{"VELOCITY_STORE": "redis-cluster"}, "VELOCITY_REDIS_ADDRS: 0 addresses: there must be from 1 to 1024"},
		{
			map[string]string{"VELOCITY_POLICY_FILE": "p.yaml", "VELOCITY_RATE": "5/s"},
			`VELOCITY_RATE: "5/s": has no effect with VELOCITY_POLICY_FILE: write it into the file`,
		},
		{
			map[string]string{"VELOCITY_CLIENT_KEY": "descriptor"},
			`VELOCITY_CLIENT_KEY: "descriptor": needs a policy file: requests of HTTP have no descriptor`,
		},
		{
			map[string]string{"VELOCITY_CLIENT_KEY": "ip, claim:sub"},
			`VELOCITY_CLIENT_KEY: "ip, claim:sub": needs a policy file, whose section jwt says which tokens are believed`,
		},
		{map[string]string{"VELOCITY_STORE": "redis"}, "VELOCITY_REDIS_ADDRS: 0 addresses: there must be from 1 to 1024"},
		{
			map[string]string{"REDIS_ADDR": "a:1", "VELOCITY_REDIS_ADDRS": "b:1"},
			"REDIS_ADDR: VELOCITY_REDIS_ADDRS is set, too, and differs: set one of them",
		},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			assert.Equal(t, []string{tt.want}, lines(t, tt.vars))
		})
	}
}

func TestLoad_reportsEveryViolationOnce(t *testing.T) {
	got := lines(t, map[string]string{
		"VELOCITY_RATE":              "often",
		"VELOCITY_CAPACITY":          "0",
		"VELOCITY_CLIENT_KEY":        "cookie",
		"VELOCITY_ON_STORE_FAILURE":  "panic",
		"VELOCITY_HTTP_READ_TIMEOUT": "5",
		"VELOCITY_REDIS_TLS":         "perhaps",
		"VELOCITY_REDIS_POOL_SIZE":   "many",
		"VELOCITY_LOG_LEVEL":         "loud",
		"VELOCITY_ADMIN_ADDR":        ":3001",
		"REDIS_ADDR":                 "redis",
	})
	var names []string
	for _, line := range got {
		name, _, _ := strings.Cut(line, ":")
		names = append(names, name)
	}
	assert.ElementsMatch(t, []string{
		"VELOCITY_RATE", "VELOCITY_CAPACITY", "VELOCITY_CLIENT_KEY", "VELOCITY_ON_STORE_FAILURE",
		"VELOCITY_HTTP_READ_TIMEOUT", "VELOCITY_REDIS_TLS", "VELOCITY_REDIS_POOL_SIZE", "VELOCITY_LOG_LEVEL",
		"VELOCITY_ADMIN_ADDR", "REDIS_ADDR",
	}, names)
	assert.Contains(t, got, `VELOCITY_HTTP_READ_TIMEOUT: "5": must be a duration, as in 50ms, 2s or 1m30s`)
	assert.Contains(t, got, `VELOCITY_REDIS_TLS: "perhaps": must be true or false`)
	assert.Contains(t, got, `VELOCITY_REDIS_POOL_SIZE: "many": must be a whole number`)
	assert.Contains(t, got, `REDIS_ADDR: entry 1: "redis": must be host:port or name=host:port`, "not the setting that it stands for")
	assert.Contains(t, got, `VELOCITY_CAPACITY: 0: must be from 1 to 10^12 tokens`)
}

func TestLoad_anErrorShowsTheValueAsItWasWritten(t *testing.T) {
	got := lines(t, map[string]string{
		"VELOCITY_RATE": "0/60s", "VELOCITY_CAPACITY": "00", "VELOCITY_HTTP_READ_TIMEOUT": " 0.5us", "VELOCITY_HTTP_MAX_CONNS": "-0x1",
		"VELOCITY_MEMORY_MAX_BUCKETS": "-05", "VELOCITY_MAX_WAITING": "1000001",
	})
	assert.ElementsMatch(t, []string{
		`VELOCITY_RATE: "0/60s": must refill from 1 to 10^12 tokens`,
		`VELOCITY_CAPACITY: 00: must be from 1 to 10^12 tokens`,
		`VELOCITY_HTTP_READ_TIMEOUT: 0.5us: must be at least 1ms`,
		`VELOCITY_HTTP_MAX_CONNS: -0x1: must be at least 1`,
		`VELOCITY_MEMORY_MAX_BUCKETS: -05: must be from 32 to 100000000`,
		`VELOCITY_MAX_WAITING: 1000001: must be from 0 to 1000000`,
	}, got)
	got = lines(t, map[string]string{"VELOCITY_RATE": "7/1000003us", "VELOCITY_CAPACITY": "1000000000000"})
	assert.Equal(t, []string{
		`VELOCITY_RATE: "7/1000003us": cannot be counted exactly with this capacity; the nearest rate that fits is 625/1971ms`,
	}, got)
}

func TestLoad_anErrorNamesNoSecret(t *testing.T) {
	got := lines(t, map[string]string{
		"VELOCITY_API_TOKEN":      "hush hush",
		"VELOCITY_ADMIN_TOKEN":    "hush\thush",
		"VELOCITY_REDIS_PASSWORD": "hush",
		"VELOCITY_KEY_SECRET":     "hush",
		"VELOCITY_POLICY_FILE":    "policies.yaml",
		"REDIS_ADDR":              "redis://user:hush@redis:6379/hush",
	})
	assert.Len(t, got, 4)
	for _, line := range got {
		assert.NotContains(t, line, "hush")
	}
}

func TestSettings_eachHasAMeaningAndADefaultThatDecodes(t *testing.T) {
	setenv(t, nil)
	seen := map[string]bool{}
	for _, s := range settingsOf(new(Config)) {
		assert.NotEmpty(t, s.meaning, s.name)
		assert.NoError(t, s.process(), s.name)
		assert.False(t, seen[s.name], "%s is there twice", s.name)
		seen[s.name] = true
	}
	assert.Greater(t, len(seen), 30)
}

func TestUnknown_namesTheNearest(t *testing.T) {
	environ := []string{
		"PATH=/bin", "VELOCITY_RATE=5/s", "VELOCITY_RATES=5/s", "VELOCITY_REDIS_ADDR=x", "VELOCITY_PORT_3000_TCP_ADDR=x",
	}
	assert.Equal(t, []UnknownVariable{
		{"VELOCITY_RATES", "VELOCITY_RATE"},
		{"VELOCITY_REDIS_ADDR", "VELOCITY_REDIS_ADDRS"},
		{"VELOCITY_PORT_3000_TCP_ADDR", ""},
	}, Unknown(environ))
}

func TestLoad_keySecret(t *testing.T) {
	setenv(t, map[string]string{"VELOCITY_KEY_SECRET": " 0123456789abcdef ", "VELOCITY_POLICY_FILE": "policies.yaml"})
	cfg, err := Load()
	require.NoError(t, err)
	assert.NotContains(t, fmt.Sprintf("%+v", cfg), "0123456789abcdef")
	of := func(hasher *clientkey.Hasher, err error) string {
		require.NoError(t, err)
		require.NotNil(t, hasher)
		return hasher.Hash("alice")
	}
	assert.Equal(t, of(clientkey.NewHasher([]byte("0123456789abcdef"))), of(cfg.Policy.KeyHasher()))
	assert.Equal(t, of(cfg.Policy.KeyHasher()), of(KeyHasher()))

	assert.Equal(t, []string{"VELOCITY_KEY_SECRET: has no effect without VELOCITY_POLICY_FILE: a key is secret if the file says secret: true"},
		lines(t, map[string]string{"VELOCITY_KEY_SECRET": "0123456789abcdef"}))
	assert.Equal(t, []string{"VELOCITY_KEY_SECRET: 15 bytes: must have at least 16 bytes, as random as those of openssl rand -hex 32"},
		lines(t, map[string]string{"VELOCITY_KEY_SECRET": "0123456789abcde", "VELOCITY_POLICY_FILE": "policies.yaml"}))
	_, err = KeyHasher()
	require.EqualError(t, err, "VELOCITY_KEY_SECRET: 15 bytes: must have at least 16 bytes, as random as those of openssl rand -hex 32")
	setenv(t, nil)
	hasher, err := KeyHasher()
	require.NoError(t, err)
	assert.Nil(t, hasher)
}
