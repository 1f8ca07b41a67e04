package main

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
	"github.com/velocity-limiter/velocity/internal/domain"
)

// setenv sets an environment that holds these settings and no others.
func setenv(t testing.TB, vars map[string]string) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, prefix) || name == "REDIS_ADDR" {
			t.Setenv(name, value) // so that it comes back
			require.NoError(t, os.Unsetenv(name))
		}
	}
	for name, value := range vars {
		t.Setenv(name, value)
	}
}

// lines returns the violations that these settings cause.
func lines(t *testing.T, vars map[string]string) []string {
	t.Helper()
	setenv(t, vars)
	_, err := loadConfig()
	var out []string
	if err != nil {
		for _, v := range violations(err) {
			out = append(out, v.Error())
		}
	}
	return out
}

func TestLoadConfig_defaults(t *testing.T) {
	setenv(t, nil)
	cfg, err := loadConfig()
	require.NoError(t, err)
	assert.Equal(t, ":3000", cfg.HTTP.Addr)
	assert.Equal(t, "127.0.0.1:3001", cfg.Admin.Addr)
	assert.Equal(t, 50*time.Millisecond, cfg.Redis.TakeTimeout)
	assert.Equal(t, telemetry.DecisionsAll, cfg.Log.LogDecisions)
	assert.False(t, cfg.Store.usesRedis(&cfg.Redis))

	p, err := cfg.Policy.policy()
	require.NoError(t, err)
	assert.Equal(t, "default", p.Name)
	assert.Equal(t, "ip", p.Key.String())
	assert.Equal(t, domain.FailOpen, p.OnStoreFailure)
	require.Len(t, p.Limits, 1)
	assert.Equal(t, "default: 5/s, capacity 10", p.Limits[0].String())
}

func TestLoadConfig_emptyCountsAsNotSet(t *testing.T) {
	setenv(t, map[string]string{"VELOCITY_RATE": "", "VELOCITY_CAPACITY": " ", "VELOCITY_TAKE_TIMEOUT": "", "REDIS_ADDR": ""})
	cfg, err := loadConfig()
	require.NoError(t, err)
	assert.Equal(t, "5/s", cfg.Policy.Rate)
	assert.Equal(t, int64(10), cfg.Policy.Capacity)
	assert.Equal(t, 50*time.Millisecond, cfg.Redis.TakeTimeout)
}

// envconfig by itself takes a variable without the prefix where it finds none with it.
func TestLoadConfig_ignoresVariablesWithoutThePrefix(t *testing.T) {
	setenv(t, map[string]string{"HTTP_ADDR": ":1", "CAPACITY": "99", "API_TOKEN": "somebody-else's"})
	cfg, err := loadConfig()
	require.NoError(t, err)
	assert.Equal(t, ":3000", cfg.HTTP.Addr)
	assert.Equal(t, int64(10), cfg.Policy.Capacity)
	assert.Empty(t, string(cfg.HTTP.APIToken))
}

func TestLoadConfig_trimsTextsAndLists(t *testing.T) {
	setenv(t, map[string]string{
		"VELOCITY_RATE": " 100/m ", "VELOCITY_REDIS_ADDRS": "a:1, b:2 ,c:3", "VELOCITY_ADMIN_HOSTS": " ops.example , x",
	})
	cfg, err := loadConfig()
	require.NoError(t, err)
	assert.Equal(t, "100/m", cfg.Policy.Rate)
	assert.Equal(t, []string{"a:1", "b:2", "c:3"}, cfg.Redis.Addrs)
	assert.Equal(t, []string{"ops.example", "x"}, cfg.Admin.Hosts)
}

func TestLoadConfig_whereTheBucketsAre(t *testing.T) {
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
			cfg, err := loadConfig()
			require.NoError(t, err)
			assert.Equal(t, tt.wantRedis, cfg.Store.usesRedis(&cfg.Redis))
			assert.Equal(t, tt.wantAddrs, cfg.Redis.Addrs)
		})
	}
}

func TestLoadConfig_whatTheAddressesAre(t *testing.T) {
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
		cfg, err := loadConfig()
		require.NoError(t, err, store)
		assert.True(t, cfg.Store.usesRedis(&cfg.Redis), store)
		assert.Equal(t, want, cfg.Redis.Topology, store)
	}
}

func TestLoadConfig_violationsOfTheStore(t *testing.T) {
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

func TestLoadConfig_reportsEveryViolationOnce(t *testing.T) {
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
		"VELOCITY_ADMIN_ADDR", "VELOCITY_REDIS_ADDRS",
	}, names)
	assert.Contains(t, got, `VELOCITY_HTTP_READ_TIMEOUT: "5": must be a duration, as in 50ms, 2s or 1m30s`)
	assert.Contains(t, got, `VELOCITY_REDIS_TLS: "perhaps": must be true or false`)
	assert.Contains(t, got, `VELOCITY_REDIS_POOL_SIZE: "many": must be a whole number`)
	assert.Contains(t, got, `VELOCITY_CAPACITY: 0: must be from 1 to 10^12 tokens`)
}

func TestLoadConfig_anErrorNamesNoSecret(t *testing.T) {
	got := lines(t, map[string]string{
		"VELOCITY_API_TOKEN":      "hush hush",
		"VELOCITY_ADMIN_TOKEN":    "hush\thush",
		"VELOCITY_REDIS_PASSWORD": "hush",
		"REDIS_ADDR":              "redis://user:hush@redis:6379",
	})
	assert.Len(t, got, 3)
	for _, line := range got {
		assert.NotContains(t, line, "hush")
	}
}

func TestSettings_eachHasAMeaningAndADefaultThatDecodes(t *testing.T) {
	setenv(t, nil)
	seen := map[string]bool{}
	for _, s := range settingsOf(&config{}) {
		assert.NotEmpty(t, s.meaning, s.name)
		assert.NoError(t, s.process(), s.name)
		assert.False(t, seen[s.name], "%s is there twice", s.name)
		seen[s.name] = true
	}
	assert.Greater(t, len(seen), 30)
}

func TestUnknownSettings(t *testing.T) {
	environ := []string{
		"PATH=/bin", "VELOCITY_RATE=5/s", "VELOCITY_RATES=5/s", "VELOCITY_REDIS_ADDR=x", "VELOCITY_PORT_3000_TCP_ADDR=x",
	}
	assert.Equal(t, []unknownSetting{
		{"VELOCITY_RATES", "VELOCITY_RATE"},
		{"VELOCITY_REDIS_ADDR", "VELOCITY_REDIS_ADDRS"},
		{"VELOCITY_PORT_3000_TCP_ADDR", ""},
	}, unknownSettings(environ, settingsOf(&config{})))
}
