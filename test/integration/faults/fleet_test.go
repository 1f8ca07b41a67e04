//go:build faults

package faults

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/app/denialcache"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// fleet is the fixture of the suite: a limiter, composed as in cmd/api, with its servers and recorders.
type fleet struct {
	servers  []*redistest.Server
	links    []*link
	proxy    *redistest.Proxy // between a link and its server; nil without one
	cluster  *redistest.Cluster
	sentinel *redistest.Sentinels

	store       *redisstore.Store
	memory      *memstore.Store
	denialCache *denialcache.Cache
	limiter     *app.RateLimiter
	// These are set by the begin of a fault for its end.
	keep      *redis.Client
	successor *redistest.Server
	stopped   []*redistest.Server
	split     time.Duration // how long there were two primaries

	// redis records the decisions of the servers, local those of the memory store that replaces a failed shard.
	redis, local *recorder
}

// fleetConfig configures a fleet. Its zero value means two shards behind links.
type fleetConfig struct {
	shards   int // 0 means 2
	topology redisstore.Topology
	options  []redistest.Option // of every server
	proxied  bool               // a proxy that changes replies stands before one server
	// proxiedShard is the shard behind the proxy. optionsOf returns further options of one server.
	proxiedShard int
	optionsOf    func(shard int) []redistest.Option
	direct       bool             // no links
	ordered      bool             // see recorder
	replica      redistest.Option // of the replica that Sentinel watches
	adapt        func(cfg *redisstore.Config)
}

func startFleet(t *testing.T, cfg fleetConfig) *fleet {
	t.Helper()
	f := &fleet{}
	var addrs []string
	switch cfg.topology {
	case redisstore.TopologyCluster:
		f.cluster = redistest.StartCluster(t, 3, 1)
		f.servers, addrs = f.cluster.Nodes, f.cluster.Addrs()
	case redisstore.TopologySentinel:
		var replica []redistest.Option
		if cfg.replica != nil {
			replica = append(replica, cfg.replica)
		}
		f.sentinel = redistest.StartSentinel(t, replica...)
		f.servers, addrs = f.sentinel.Servers, f.sentinel.Addrs()
	default:
		addrs = f.startShards(t, cfg)
	}
	config := redisstore.DefaultConfig(addrs...)
	config.TakeTimeout = takeTimeout()
	if cfg.topology != "" {
		config.Topology = cfg.topology
	}
	if f.sentinel != nil {
		config.SentinelMaster = redistest.SentinelMaster
	}
	if cfg.adapt != nil {
		cfg.adapt(&config)
	}
	f.compose(t, config, cfg)
	return f
}

// startShards starts the servers and returns their addresses for the store. The addresses have names, so that each run
// assigns the clients to the same shards.
func (f *fleet) startShards(t *testing.T, cfg fleetConfig) []string {
	t.Helper()
	n := cfg.shards
	if n == 0 {
		n = 2
	}
	var addrs []string
	for i := range n {
		options := slices.Clone(cfg.options)
		if cfg.optionsOf != nil {
			options = append(options, cfg.optionsOf(i)...)
		}
		server := redistest.Start(t, options...)
		addr := server.Addr
		if cfg.proxied && i == cfg.proxiedShard {
			f.proxy = redistest.StartProxy(t, addr)
			addr = f.proxy.Addr
		}
		if !cfg.direct {
			l := startLink(t, addr)
			f.links, addr = append(f.links, l), l.addr()
		}
		f.servers, addrs = append(f.servers, server), append(addrs, fmt.Sprintf("s%d=%s", i, addr))
	}
	return addrs
}

func (f *fleet) compose(t *testing.T, config redisstore.Config, cfg fleetConfig) {
	t.Helper()
	store, err := redisstore.New(config)
	require.NoError(t, err)
	f.store = store
	t.Cleanup(f.stop)
	memory, err := memstore.New(memstore.DefaultConfig())
	require.NoError(t, err)
	f.memory = memory
	f.redis = &recorder{store: store, shardOf: f.shardOf, ordered: cfg.ordered}
	f.local = &recorder{store: memory}

	start := time.Now()
	f.denialCache, err = denialcache.New(denialcache.Config{MaxEntries: 65536, MaxAge: time.Second}, f.redis,
		func() time.Duration { return time.Since(start) })
	require.NoError(t, err)
	store.Manager().OnFailover(f.denialCache.Clear)
	f.limiter = app.NewRateLimiter(&cacheRecorder{f.denialCache, f.redis}, f.local, newPolicies(t), noopObserver{})
}

// stop closes everything. It may be called more than once.
func (f *fleet) stop() {
	if f.limiter != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = f.limiter.Close(ctx)
	}
	if f.denialCache != nil {
		f.denialCache.Close()
	}
	if f.memory != nil {
		_ = f.memory.Close()
	}
	_ = f.store.Close()
	for _, l := range f.links {
		l.close()
	}
	if f.proxy != nil {
		f.proxy.Close()
	}
	for _, s := range f.servers {
		s.Kill()
	}
}

// shardOf returns the shard of a key. A Redis Cluster, or the servers behind Sentinel, count as one shard, because a key
// may move between them.
func (f *fleet) shardOf(key clientkey.BucketKey) int {
	if f.cluster != nil || f.sentinel != nil {
		return 0
	}
	owner := f.store.Manager().GetClient(string(key)).Options().Addr
	for i, s := range f.store.Manager().Shards() {
		if s.Addr == owner {
			return i
		}
	}
	panic("faults: no shard has the address " + owner)
}

// longTimeout raises the budget for a fleet whose servers do not fail.
func longTimeout(c *redisstore.Config) { c.TakeTimeout = waitTimeout }

// admin returns a client that connects to a server directly, past links and proxies.
func admin(t testing.TB, s *redistest.Server, adapt ...func(*redis.Options)) *redis.Client {
	t.Helper()
	options := &redis.Options{
		Addr: s.Addr, Protocol: 2, MaxRetries: -1, DialTimeout: waitTimeout, ReadTimeout: waitTimeout, PipelinePoolSize: -1,
		DisableIdentity: true,
	}
	for _, f := range adapt {
		f(options)
	}
	c := redis.NewClient(options)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// insecure makes a client accept any certificate, for a server whose certificate changes.
func insecure(o *redis.Options) {
	o.TLSConfig = &tls.Config{InsecureSkipVerify: true} // a test's own server on loopback
}

// noopObserver is an observer that does nothing.
type noopObserver struct{}

func (noopObserver) Decided(*policy.Request, *decision.Decision)   {}
func (noopObserver) StoreFailed(string, policy.FailureMode, error) {}
