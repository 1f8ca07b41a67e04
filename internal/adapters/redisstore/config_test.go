package redisstore_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
)

func TestConfig_defaultsAreValidAndEqualTheTags(t *testing.T) {
	cfg := redisstore.DefaultConfig("localhost:6379")
	require.NoError(t, cfg.Validate())
	v := reflect.ValueOf(cfg)
	names := map[string]bool{}
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := tag.Get("envconfig")
		assert.NotEmpty(t, name, "%s has no name", v.Type().Field(i).Name)
		assert.False(t, names[name], "%s is there twice", name)
		names[name] = true
		if want, ok := tag.Lookup("default"); ok {
			assert.Equal(t, want, fmt.Sprint(v.Field(i)), "%s", name)
		}
	}
}

func TestConfig_reportsAllViolationsAtOnce(t *testing.T) {
	cfg := redisstore.Config{
		Addrs:       []string{"a:1", "b", " A:1 ", "n=c:1", "n=d:1", "x=redis://user:hunter2@e:1", "f:0", "UP=g:1", ":6379", "h i:1", ""},
		Strategy:    "random",
		Username:    "limiter",
		TLSCAFile:   "/ca.pem",
		TLSCertFile: "/cert.pem",
		PoolSize:    0,
		DialTimeout: -time.Second,
		TakeTimeout: 2 * time.Minute,
	}
	err := cfg.Validate()
	require.Error(t, err)
	for _, want := range []string{
		`entry 2: "b": must be host:port`,
		`entry 3: "a:1": another entry has this address`,
		`entry 5: "n": another entry has this name`,
		`entry 6: must be host:port; credentials belong in`,
		`entry 7: "f:0": the port`,
		`entry 8: "UP=g:1": the name must match`,
		`entry 9: ":6379": the host`,
		`entry 10: "h i:1": the host`,
		`entry 11: is empty`,
		`VELOCITY_SHARD_STRATEGY: "random": must be rendezvous or modulo`,
		`VELOCITY_REDIS_USERNAME: "limiter": needs VELOCITY_REDIS_PASSWORD`,
		`VELOCITY_REDIS_TLS_CA_FILE: "/ca.pem": has no effect without`,
		`VELOCITY_REDIS_TLS_CERT_FILE: "/cert.pem": must be set together`,
		`VELOCITY_REDIS_POOL_SIZE: 0: must be from 1 to 1024`,
		`VELOCITY_REDIS_DIAL_TIMEOUT: -1s: must be from 1ms`,
		`VELOCITY_TAKE_TIMEOUT: 2m0s: must be from 1ms to 1m0s`,
	} {
		assert.ErrorContains(t, err, want)
	}
	assert.NotContains(t, err.Error(), "hunter2")
	_, err = redisstore.New(cfg)
	require.Error(t, err)
	_, err = redisstore.NewRedisShardManager()
	assert.ErrorContains(t, err, "0 addresses")
}

func TestConfig_refusesWhatTheTopologyWouldIgnore(t *testing.T) {
	shards := redisstore.DefaultConfig("a:1")
	shards.SentinelMaster, shards.SentinelPassword = "main", "hunter2"
	cluster := redisstore.DefaultConfig("a:1", "n=b:1", "c")
	cluster.Topology, cluster.Strategy, cluster.SentinelUsername = redisstore.TopologyCluster, redisstore.StrategyModulo, "watcher"
	sentinel := redisstore.DefaultConfig("n=a:1")
	sentinel.Topology, sentinel.SentinelUsername = redisstore.TopologySentinel, "watcher"
	unknown := redisstore.DefaultConfig("a:1")
	unknown.Topology = "ring"
	for _, c := range []struct {
		cfg  redisstore.Config
		want []string
	}{
		{shards, []string{
			`VELOCITY_REDIS_SENTINEL_MASTER: "main": has no effect without VELOCITY_STORE=redis-sentinel`,
			`VELOCITY_REDIS_SENTINEL_PASSWORD: "[redacted]": has no effect without`,
		}},
		{cluster, []string{
			`VELOCITY_REDIS_ADDRS: "n=b:1": a name has no effect`,
			`VELOCITY_REDIS_ADDRS: entry 3: "c": must be host:port`,
			`VELOCITY_SHARD_STRATEGY: "modulo": has no effect`,
			`VELOCITY_REDIS_SENTINEL_USERNAME: "watcher": has no effect without`,
		}},
		{sentinel, []string{
			`VELOCITY_REDIS_ADDRS: "n=a:1": a name has no effect`,
			`VELOCITY_REDIS_SENTINEL_MASTER: "": must be the name`,
			`VELOCITY_REDIS_SENTINEL_USERNAME: "watcher": needs VELOCITY_REDIS_SENTINEL_PASSWORD`,
		}},
		{unknown, []string{`VELOCITY_STORE: "ring": is no topology`}},
	} {
		err := c.cfg.Validate()
		require.Error(t, err)
		assert.Len(t, strings.Split(err.Error(), "\n"), len(c.want), "%v", err)
		for _, want := range c.want {
			assert.ErrorContains(t, err, want)
		}
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

func TestConfig_unreadableTLSFilesStopTheStart(t *testing.T) {
	for _, change := range []func(*redisstore.Config){
		func(c *redisstore.Config) { c.TLSCAFile = "/nowhere/ca.pem" },
		func(c *redisstore.Config) { c.TLSCAFile = "config_test.go" },
		func(c *redisstore.Config) { c.TLSCertFile, c.TLSKeyFile = "config_test.go", "config_test.go" },
	} {
		cfg := redisstore.DefaultConfig("localhost:6379")
		cfg.TLS = true
		change(&cfg)
		_, err := redisstore.New(cfg)
		assert.ErrorContains(t, err, "REDIS_TLS_")
	}
}

func TestSecret_isShownByNothing(t *testing.T) {
	cfg := redisstore.Config{Password: "hunter2"}
	encoded, err := json.Marshal(cfg)
	require.NoError(t, err)
	shown := []string{string(encoded), cfg.Password.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v", "%t", "%10v"} {
		shown = append(shown, fmt.Sprintf(verb, cfg.Password), fmt.Sprintf(verb, cfg), fmt.Sprintf(verb, &cfg))
	}
	for _, s := range shown {
		assert.NotContains(t, strings.ToLower(s), "hunter2")
		assert.NotContains(t, strings.ToLower(s), fmt.Sprintf("%x", "hunter2"))
	}
	assert.Equal(t, "[redacted]", fmt.Sprint(cfg.Password))
	assert.Empty(t, redisstore.Secret("").String())
}

func TestParseAddress(t *testing.T) {
	for _, c := range []struct{ entry, identity, hostPort string }{
		{"localhost:6379", "localhost:6379", "localhost:6379"},
		{"  Redis.Example.COM:06379\n", "redis.example.com:6379", "redis.example.com:6379"},
		{"eu-1=10.0.0.1:6379", "eu-1", "10.0.0.1:6379"},
		{"[::1]:6379", "[::1]:6379", "[::1]:6379"},
		{"v6=[fe80::1%eth0]:6379", "v6", "[fe80::1%eth0]:6379"},
	} {
		identity, hostPort, err := redisstore.ParseAddress(c.entry)
		require.NoError(t, err, "%q", c.entry)
		assert.Equal(t, c.identity, identity)
		assert.Equal(t, c.hostPort, hostPort)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"a:1", "n=a:1", "[::1]:1", "=a:1", "a=b=c:1", "redis://u:p@h:1", "a:99999", " a:1", "a:1\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		identity, hostPort, err := redisstore.ParseAddress(entry)
		if err != nil {
			return
		}
		again, sameHostPort, err := redisstore.ParseAddress(hostPort)
		require.NoError(t, err, "what was made from %q is read again", entry)
		assert.Equal(t, hostPort, again)
		assert.Equal(t, hostPort, sameHostPort)
		assert.NotEmpty(t, identity)
		assert.NotContains(t, hostPort, "@")
	})
}
