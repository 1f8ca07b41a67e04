package redisstore_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/secret"
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
		names[name] = name != "-"
		if want, ok := tag.Lookup("default"); ok {
			assert.Equal(t, want, fmt.Sprint(v.Field(i)), "%s", name)
		}
	}
}

func TestConfig_reportsAllViolationsAtOnce(t *testing.T) {
	cfg := redisstore.Config{
		Addrs:       []string{"a:1", "b", " A:1 ", "n=c:1", "n=d:1", "user:hunter2@e:1", "f:0", "UP=g:1", ":6379", "h i:1", ""},
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
		`entry 6: must be host:port; a user and a password belong in REDIS_USERNAME and REDIS_PASSWORD, or in a URL`,
		`entry 7: "f:0": the port`,
		`entry 8: "UP=g:1": the name must match`,
		`entry 9: ":6379": the host`,
		`entry 10: "h i:1": the host`,
		`entry 11: is empty`,
		`SHARD_STRATEGY: "random": must be rendezvous or modulo`,
		`REDIS_USERNAME: "limiter": needs REDIS_PASSWORD`,
		`REDIS_TLS_CA_FILE: "/ca.pem": has no effect without`,
		`REDIS_TLS_CERT_FILE: "/cert.pem": must be set together`,
		`REDIS_POOL_SIZE: 0: must be from 1 to 1024`,
		`REDIS_DIAL_TIMEOUT: -1s: must be from 1ms`,
		`TAKE_TIMEOUT: 2m0s: must be from 1ms to 1m0s`,
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
			`REDIS_SENTINEL_MASTER: "main": has no effect without STORE=redis-sentinel`,
			`REDIS_SENTINEL_PASSWORD: "[redacted]": has no effect without`,
		}},
		{cluster, []string{
			`REDIS_ADDRS: "n=b:1": a name has no effect`,
			`REDIS_ADDRS: entry 3: "c": must be host:port`,
			`SHARD_STRATEGY: "modulo": has no effect`,
			`REDIS_SENTINEL_USERNAME: "watcher": has no effect without`,
		}},
		{sentinel, []string{
			`REDIS_ADDRS: "n=a:1": a name has no effect`,
			`REDIS_SENTINEL_MASTER: "": must be the name`,
			`REDIS_SENTINEL_USERNAME: "watcher": needs REDIS_SENTINEL_PASSWORD`,
		}},
		{unknown, []string{`STORE: "ring": is no topology`}},
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

func TestConfig_refusesWhatURLsContradict(t *testing.T) {
	plain := redisstore.DefaultConfig("redis://:hunter2@a:1")
	plain.TLS = true
	withConfig := redisstore.DefaultConfig("redis://:hunter2@a:1", "rediss://b:1")
	withConfig.TLSConfig, withConfig.TLSCAFile = &tls.Config{}, "/ca.pem"
	cluster := redisstore.DefaultConfig("redis://:hunter2@a:1", "redis://:hunter2@b:1/3", "c:1")
	cluster.Topology, cluster.Database = redisstore.TopologyCluster, 2
	sentinel := redisstore.DefaultConfig("redis://a:1")
	sentinel.Topology, sentinel.SentinelMaster, sentinel.Database = redisstore.TopologySentinel, "main", -1
	for _, c := range []struct {
		cfg  redisstore.Config
		want []string
	}{
		{plain, []string{`REDIS_ADDRS: "a:1": redis:// is without TLS, but REDIS_TLS is set: write rediss://`}},
		{withConfig, []string{
			`REDIS_ADDRS: "a:1": redis:// is without TLS, but REDIS_TLS_CONFIG is set`,
			`REDIS_TLS_CA_FILE: "/ca.pem": has no effect with REDIS_TLS_CONFIG`,
		}},
		{cluster, []string{
			`REDIS_ADDRS: "b:1": a Redis Cluster has one database`,
			`REDIS_ADDRS: "c:1": the nodes of a Redis Cluster must have one scheme, user and password`,
			`REDIS_DATABASE: 2: has no effect`,
		}},
		{sentinel, []string{`REDIS_ADDRS: "a:1": the address of a sentinel must be host:port`, `REDIS_DATABASE: -1: must be`}},
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
	assert.Empty(t, secret.Secret("").String())
}

func TestParseAddress(t *testing.T) {
	for _, c := range []struct{ entry, identity, hostPort string }{
		{"localhost:6379", "localhost:6379", "localhost:6379"},
		{"  Redis.Example.COM:06379\n", "redis.example.com:6379", "redis.example.com:6379"},
		{"eu-1=10.0.0.1:6379", "eu-1", "10.0.0.1:6379"},
		{"[::1]:6379", "[::1]:6379", "[::1]:6379"},
		{"v6=[fe80::1%eth0]:6379", "v6", "[fe80::1%eth0]:6379"},
		{"redis://Redis.example.com", "redis.example.com:6379", "redis.example.com:6379"},
		{"rediss://user:pass=word@redis.example.com:6380/2", "redis.example.com:6380/2", "redis.example.com:6380"},
		{"eu-1=redis://:p%40ss@[::1]:7/", "eu-1", "[::1]:7"},
		{"eu-1=redis://:p%40ss@[::1]:7/3", "eu-1", "[::1]:7"},
		{"redis://:p%40ss@a:7/0", "a:7", "a:7"},
	} {
		identity, hostPort, err := redisstore.ParseAddress(c.entry)
		require.NoError(t, err, "%q", c.entry)
		assert.Equal(t, c.identity, identity)
		assert.Equal(t, c.hostPort, hostPort)
	}
}

func TestParseAddress_refusesURLsWithoutShowingThem(t *testing.T) {
	for entry, want := range map[string]string{
		"http://user:hunter2@a:1":        "must be a URL as redis://",
		"redis://user:hunter2@a:port":    "must be a URL as redis://",
		"redis://user:hunter2@a:0":       `"a:0": the port must be`,
		"redis://user:hunter2@a:99999":   `"a:99999": the port must be`,
		"redis://user:hunter2@:1":        `":1": the host must be`,
		"redis://:hunter2@a/x":           `"a": the path must be the number of a database`,
		"redis://:hunter2@a/-1":          `"a": the path must be the number of a database`,
		"redis://:hunter2@a/1?timeout=1": `"a": must end after the number`,
		"redis://:hunter2@a/1#b":         `"a": must end after the number`,
		"redis://hunter2@a":              `"a": has a user without a password`,
		"UP=redis://user:hunter2@a:1":    "the name must match",
		"redis//user:hunter2@a:1":        "a user and a password belong in",
	} {
		_, _, err := redisstore.ParseAddress(entry)
		require.ErrorContains(t, err, want, entry)
		assert.NotContains(t, err.Error(), "hunter2", entry)
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
