//go:build faults

package faults

import (
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
	"github.com/velocity-limiter/velocity/internal/domain"
)

// fleet is a limiter as cmd/api composes it, its servers, and the ledgers of what its stores decided.
type fleet struct {
	servers  []*redistest.Server
	links    []*link
	peer     *redistest.Proxy // between a link and its server, if there is a scripted peer
	cluster  *redistest.Cluster
	sentinel *redistest.Sentinels

	store    *redisstore.Store
	memory   *memstore.Store
	shortcut *app.Shortcut
	limiter  *app.RateLimiter
	// What a fault leaves for its end.
	keep      *redis.Client
	successor *redistest.Server
	stopped   []*redistest.Server
	split     time.Duration // for which there were two primaries

	// redis is the ledger of the servers' decisions, local of this process's while they fail.
	redis, local *ledger
}

// fleetConfig says what a fleet is made of. The zero value: two shards behind links.
type fleetConfig struct {
	shards   int // 0: 2
	topology redisstore.Topology
	options  []redistest.Option // of every server
	scripted bool               // a scripted peer stands before one server
	// scriptedAt is which, optionsOf are more options of one.
	scriptedAt int
	optionsOf  func(shard int) []redistest.Option
	direct     bool             // no links
	ordered    bool             // see ledger
	replica    redistest.Option // of the replica that Sentinel watches
	adapt      func(cfg *redisstore.Config)
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

// startShards returns the addresses under which the store knows the shards, with names, so that each run places the
// clients alike.
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
		if cfg.scripted && i == cfg.scriptedAt {
			f.peer = redistest.StartProxy(t, addr)
			addr = f.peer.Addr
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
	f.redis = &ledger{store: store, shardOf: f.shardOf, ordered: cfg.ordered}
	f.local = &ledger{store: memory}

	start := time.Now()
	f.shortcut, err = app.NewShortcut(app.ShortcutConfig{MaxEntries: 65536, MaxAge: time.Second}, f.redis,
		func() time.Duration { return time.Since(start) })
	require.NoError(t, err)
	store.Manager().OnFailover(f.shortcut.Forget)
	f.limiter = app.NewRateLimiter(&repeats{f.shortcut, f.redis}, f.local, newPolicies(t), deaf{})
}

// stop closes all. More than once is fine.
func (f *fleet) stop() {
	if f.shortcut != nil {
		f.shortcut.Close()
	}
	if f.memory != nil {
		_ = f.memory.Close()
	}
	_ = f.store.Close()
	for _, l := range f.links {
		l.close()
	}
	if f.peer != nil {
		f.peer.Close()
	}
	for _, s := range f.servers {
		s.Kill()
	}
}

// shardOf is the shard of a key. All of a cluster, and what Sentinel watches, is one: there a key may move.
func (f *fleet) shardOf(key domain.BucketKey) int {
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

// patient is for a fleet whose servers do not fail.
func patient(c *redisstore.Config) { c.TakeTimeout = patience }

// admin is a client of one server, past all links.
func admin(t testing.TB, s *redistest.Server, adapt ...func(*redis.Options)) *redis.Client {
	t.Helper()
	options := &redis.Options{
		Addr: s.Addr, Protocol: 2, MaxRetries: -1, DialTimeout: patience, ReadTimeout: patience, PipelinePoolSize: -1,
		DisableIdentity: true,
	}
	for _, f := range adapt {
		f(options)
	}
	c := redis.NewClient(options)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// insecure is for a server whose certificate changes.
func insecure(o *redis.Options) {
	o.TLSConfig = &tls.Config{InsecureSkipVerify: true} // a test's own server on loopback
}

// deaf is an observer that does nothing.
type deaf struct{}

func (deaf) Decided(*domain.Request, *domain.Decision)     {}
func (deaf) StoreFailed(string, domain.FailureMode, error) {}
