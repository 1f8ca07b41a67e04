package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
)

const (
	// maxRedirects is how often a command is sent on: a table may be stale, and the slot may be moving as well.
	maxRedirects = 3
	// tableMaxAge is when the table of slots is read again though nothing went wrong.
	tableMaxAge = 10 * time.Second
	// refreshInterval is the least time between two readings after a failure.
	refreshInterval = 100 * time.Millisecond
	// refreshTimeout bounds one reading, which may meet several dead nodes.
	refreshTimeout = 2 * time.Second
)

// cluster is a Redis Cluster. Each primary has a batcher of its own, so that one that is down delays its own slots
// alone. Which primary owns a key is looked up twice: when a group joins a batcher, and, by go-redis, when the batch
// is sent, which follows the redirects of nodes that know better. A slot that moves in between costs a round trip.
type cluster struct {
	client   *redis.ClusterClient
	seed     *redis.Client // what clientFor returns before any table was read
	seeds    []Shard
	script   *script
	budget   time.Duration
	notices  *notices
	entry    *batcher
	batchers sync.Map                // *redis.Client of a primary -> *batcher
	shards   atomic.Pointer[[]probe] // the primaries that were found last

	known     atomic.Bool // a table has been read, and go-redis keeps it
	due       atomic.Bool // a reading will begin
	reading   sync.Mutex  // guards what follows
	began     time.Time   // the last reading
	primaries map[*redis.Client]bool
}

var _ topology = (*cluster)(nil)

func newCluster(cfg *Config, seeds []address, tlsConfig *tls.Config, script *script, notices *notices) *cluster {
	c := &cluster{
		client:  redis.NewClusterClient(cfg.clusterOptions(seeds, tlsConfig)),
		seed:    cfg.newClient(seeds[0].hostPort, tlsConfig),
		script:  script,
		budget:  cfg.TakeTimeout,
		notices: notices,
	}
	c.client.OnNewNode(func(node *redis.Client) { node.AddHook(dialHook{}) })
	for i, s := range seeds {
		c.seeds = append(c.seeds, Shard{Name: "seed-" + strconv.Itoa(i), Identity: s.identity(), Addr: s.hostPort})
	}
	c.entry = c.newBatcher("cluster", func() (domain.BucketKey, bool) { return probeKey, true })
	return c
}

// clusterOptions are those of clientOptions, for every node.
func (c *Config) clusterOptions(seeds []address, tlsConfig *tls.Config) *redis.ClusterOptions {
	one := c.clientOptions("", tlsConfig)
	return &redis.ClusterOptions{
		Addrs: hostPorts(seeds),
		// Without redirects no ASK is followed. They are no retries: a node that redirects has run nothing.
		MaxRedirects: maxRedirects,
		// A redirect is followed at once.
		MinRetryBackoff: -1,
		MaxRetryBackoff: -1,

		ClusterStateReloadInterval: tableMaxAge,

		TLSConfig:                one.TLSConfig,
		Username:                 one.Username,
		Password:                 one.Password,
		MaxRetries:               one.MaxRetries,
		ContextTimeoutEnabled:    one.ContextTimeoutEnabled,
		DialerRetries:            one.DialerRetries,
		DialTimeout:              one.DialTimeout,
		ReadTimeout:              one.ReadTimeout,
		WriteTimeout:             one.WriteTimeout,
		PoolTimeout:              one.PoolTimeout,
		PoolSize:                 one.PoolSize,
		MaxActiveConns:           one.MaxActiveConns,
		MaxConcurrentDials:       one.MaxConcurrentDials,
		PipelinePoolSize:         one.PipelinePoolSize,
		ConnMaxLifetime:          one.ConnMaxLifetime,
		ConnMaxLifetimeJitter:    one.ConnMaxLifetimeJitter,
		ConnMaxIdleTime:          one.ConnMaxIdleTime,
		Protocol:                 one.Protocol,
		DisableIdentity:          one.DisableIdentity,
		MaintNotificationsConfig: one.MaintNotificationsConfig,
	}
}

// newBatcher makes a batcher whose server is probed with a key that keyOf finds.
func (c *cluster) newBatcher(name string, keyOf func() (domain.BucketKey, bool)) *batcher {
	send := func(ctx context.Context, groups []*group) error { return c.send(ctx, name, groups) }
	questions := questions{
		probe: func(ctx context.Context) error {
			key, ok := keyOf()
			if !ok {
				c.refresh()
				return errNoSlots
			}
			return probeWith(ctx, send, key)
		},
		permissions: func(ctx context.Context) error {
			key, ok := keyOf()
			if !ok {
				return errNoSlots
			}
			return checkPermissions(ctx, c.client, key)
		},
	}
	return newBatcher(name, c.budget, send, newGuard(name, c.budget, c.notices, questions))
}

// keyOf finds a probe's key that the node owns. Without one the node is no primary any more.
func (c *cluster) keyOf(node *redis.Client) (domain.BucketKey, bool) {
	for i := range 2 * clusterSlots { // a hash, so that most slots are among them
		key := numberedProbeKey(i)
		// The table is there, so this does not wait, and the context does not matter.
		owner, err := c.client.MasterForKey(context.Background(), string(key))
		if err == nil && owner == node {
			return key, true
		}
	}
	return "", false
}

// batcherFor implements topology. Until a table has been read, all groups wait for it in one batcher.
func (c *cluster) batcherFor(text string) *batcher {
	if !c.known.Load() {
		return c.entry
	}
	// The table is there, so this does not wait, and the context does not matter.
	node, err := c.client.MasterForKey(context.Background(), text)
	if err != nil {
		return c.entry
	}
	if known, ok := c.batchers.Load(node); ok {
		return known.(*batcher)
	}
	// A node that was not seen before: the primaries have changed.
	c.refresh()
	known, _ := c.batchers.LoadOrStore(node, c.newBatcher("node "+node.Options().Addr,
		func() (domain.BucketKey, bool) { return c.keyOf(node) }))
	return known.(*batcher)
}

// learn makes sure that a table has been read.
func (c *cluster) learn(ctx context.Context) error {
	if c.known.Load() {
		return nil
	}
	if _, err := c.client.MasterForKey(ctx, string(probeKey)); err != nil {
		return err
	}
	c.known.Store(true)
	c.refresh()
	return nil
}

// clientFor implements topology.
func (c *cluster) clientFor(text string) *redis.Client {
	ctx, cancel := context.WithTimeout(context.Background(), c.budget)
	defer cancel()
	node, err := c.client.MasterForKey(ctx, text)
	if err != nil {
		return c.seed
	}
	return node
}

// describe implements topology.
func (c *cluster) describe() []Shard { return append([]Shard(nil), c.seeds...) }

// Close implements topology.
func (c *cluster) Close() error {
	guards := []*guard{c.entry.guard}
	c.batchers.Range(func(_, b any) bool {
		guards = append(guards, b.(*batcher).guard)
		return true
	})
	for _, g := range guards {
		g.stop()
	}
	err := errors.Join(c.client.Close(), c.seed.Close())
	for _, g := range guards {
		g.wait()
	}
	return err
}

// refresh has the table of slots read in the background, since go-redis by itself does so only when it is redirected:
// a primary that is dead redirects nobody to the replica that took its place. The reading begins after the call, so
// that it sees what the caller saw, but not sooner than refreshInterval after the last.
func (c *cluster) refresh() {
	if c.due.Swap(true) {
		return
	}
	go func() {
		c.reading.Lock()
		defer c.reading.Unlock()
		time.Sleep(refreshInterval - time.Since(c.began))
		c.began = time.Now()
		c.due.Store(false)
		c.read()
	}()
}

// read reads the table, and drops the batchers of nodes that are primaries no more; what waits in them is still sent.
func (c *cluster) read() {
	ctx, cancel := context.WithTimeout(context.Background(), refreshTimeout)
	defer cancel()
	var mu sync.Mutex
	primaries := make(map[*redis.Client]bool)
	err := c.client.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		primaries[node] = true
		return nil
	})
	if err != nil {
		return
	}
	c.batchers.Range(func(node, b any) bool {
		if !primaries[node.(*redis.Client)] {
			c.batchers.Delete(node)
			b.(*batcher).guard.retire()
		}
		return true
	})
	c.probes(ctx) // which remembers the shards
	before := c.primaries
	c.primaries = primaries
	for node := range before {
		if !primaries[node] {
			c.notices.failedOver()
			return
		}
	}
}
