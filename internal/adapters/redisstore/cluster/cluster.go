// Package cluster decides in a Redis Cluster, by a batcher for each primary.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// refreshInterval is the least time between two readings of the table of slots after a failure.
	refreshInterval = 100 * time.Millisecond
	// refreshTimeout bounds one reading, which may meet several dead nodes.
	refreshTimeout = 2 * time.Second
)

var errNoSlots = errors.New("no node owns any slot")

// Cluster is a Redis Cluster. A primary that is down delays requests for its own slots only. The primary of a key is looked
// up twice: when a request joins a batcher, and, by go-redis, when the batch is sent, which follows the redirects of nodes
// that know better. So a slot that moves in between costs a round trip.
type Cluster struct {
	client     *redis.ClusterClient
	seed       *redis.Client // what ClientFor returns before a table of slots was read; nil if client is borrowed
	calls      callOptions
	pipeline   pipeline
	budget     time.Duration
	onFailover func()
	entry      *batch.Batcher                 // for all keys, until a table was read
	batchers   sync.Map                       // *redis.Client of a primary -> *batch.Batcher
	shards     atomic.Pointer[[]batch.Target] // the primaries of the table that was read last

	known atomic.Bool // a table was read, and go-redis keeps it

	ctx        context.Context // of the background: it ends with Stop
	cancel     context.CancelFunc
	background sync.WaitGroup
	mu         sync.Mutex
	due        bool // a reading will begin
	stopped    bool // no reading begins any more

	reading   sync.Mutex // guards what follows
	began     time.Time  // the last reading
	primaries map[*redis.Client]bool
}

// New returns a cluster whose calls take at most the budget. seed is a client of one node. onFailover is called when a node
// has ceased to be a primary. Close closes both clients.
func New(
	client *redis.ClusterClient, seed *redis.Client, take *script.Script, budget time.Duration, events *batch.Events,
	onFailover func(),
) *Cluster {
	client.OnNewNode(func(node *redis.Client) { node.AddHook(recovering{nodeName(node), events}) })
	return start(client, seed, take, budget, callOptions{events: events}, onFailover)
}

// Borrow is [New] for a client of the caller's, with any options. Close does not close it. If its ContextTimeoutEnabled is
// not set, a connection that does not answer is in use for the client's ReadTimeout; nothing here waits that long. A
// panic of a hook is an error, but hooks of the nodes' clients run on goroutines of go-redis, where nothing recovers.
func Borrow(
	client *redis.ClusterClient, take *script.Script, budget time.Duration, events *batch.Events, onFailover func(),
) *Cluster {
	return start(client, nil, take, budget, callOptions{events: events, borrowed: true}, onFailover)
}

func start(
	client *redis.ClusterClient, seed *redis.Client, take *script.Script, budget time.Duration, o callOptions, onFailover func(),
) *Cluster {
	c := &Cluster{
		client: client, seed: seed, calls: o, pipeline: pipeline{client: client, script: take, calls: o}, budget: budget,
		onFailover: onFailover,
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.entry = c.newBatcher("cluster", func() (clientkey.BucketKey, error) { return batch.ProbeKey, nil })
	return c
}

func (c *Cluster) newBatcher(name string, probeKey func() (clientkey.BucketKey, error)) *batch.Batcher {
	return batch.New(batch.Server{
		Name: name, Client: processor{c.client, c.calls}, ProbeKey: probeKey, MayOverrun: c.calls.borrowed,
		Send: func(ctx context.Context, groups []*script.Group, now domain.Instant) error {
			return c.send(ctx, name, groups, now)
		},
	}, c.budget, c.calls.events)
}

// send decides a batch. After a failure the table of slots is read again.
func (c *Cluster) send(ctx context.Context, name string, groups []*script.Group, now domain.Instant) error {
	if err := c.learn(ctx); err != nil {
		return fmt.Errorf("%w: %s, %w: %w", ports.ErrUnavailable, name, ports.ErrNotRun, err)
	}
	failed, err := c.pipeline.decide(ctx, name, groups, now)
	if failed {
		c.refresh()
	}
	return err
}

// probeKey finds a probe key that the node owns. Without one the node is no primary any more.
func (c *Cluster) probeKey(node *redis.Client) (clientkey.BucketKey, error) {
	for i := range 2 * slots { // the keys are hashed, so most slots are among them
		key := numberedProbeKey(i)
		// The table was read, so this does not wait, and the context does not matter.
		owner, err := c.client.MasterForKey(context.Background(), string(key))
		if err == nil && owner == node {
			return key, nil
		}
	}
	c.refresh()
	return "", errNoSlots
}

// BatcherFor returns the batcher of the primary that owns a bucket key, without waiting for a server. Until a table of slots
// was read, all keys have one batcher.
func (c *Cluster) BatcherFor(key string) *batch.Batcher {
	if !c.known.Load() {
		return c.entry
	}
	// The table was read, so this does not wait, and the context does not matter.
	node, err := c.client.MasterForKey(context.Background(), key)
	if err != nil {
		return c.entry
	}
	if known, ok := c.batchers.Load(node); ok {
		return known.(*batch.Batcher)
	}
	c.refresh() // the node is new, so the primaries have changed
	known, _ := c.batchers.LoadOrStore(node, c.newBatcher(nodeName(node),
		func() (clientkey.BucketKey, error) { return c.probeKey(node) }))
	if c.ctx.Err() != nil {
		known.(*batch.Batcher).Stop() // which Stop may have come too early for
	}
	return known.(*batch.Batcher)
}

// nodeName returns the name of a node in errors and events.
func nodeName(node *redis.Client) string { return "node " + node.Options().Addr }

// ClientFor returns the client of the primary that owns a bucket key, as far as that is known. It may wait for a server for
// as long as the budget.
func (c *Cluster) ClientFor(key string) *redis.Client {
	ctx, cancel := context.WithTimeout(context.Background(), c.budget)
	defer cancel()
	node, err := within(ctx, c.calls, func() (*redis.Client, error) { return c.client.MasterForKey(ctx, key) })
	if err != nil {
		return c.seed
	}
	return node
}

// Targets reads the table of slots and returns each primary, in the order of their first slots: a replica that takes over
// inherits its primary's place. If no table can be read, there is one target, which holds the error.
func (c *Cluster) Targets(ctx context.Context) []batch.Target {
	ranges, err := c.readTable(ctx)
	if err != nil {
		return []batch.Target{{
			Name: batch.ShardName(0), Err: fmt.Errorf("%w: cluster, %w: %w", ports.ErrUnavailable, ports.ErrNotRun, err),
		}}
	}
	var list []batch.Target
	seen := make(map[string]bool)
	for _, r := range ranges {
		primary := r.Nodes[0].Addr
		if seen[primary] {
			continue
		}
		seen[primary] = true
		key := keyInSlots(r.Start, r.End)
		list = append(list, batch.Target{Name: batch.ShardName(len(list)), Key: key, Batcher: c.BatcherFor(string(key))})
	}
	c.shards.Store(&list)
	return list
}

// Stats returns the statistics of the primaries of the table that was read last, without asking them.
func (c *Cluster) Stats() []ports.ShardStats {
	list := c.shards.Load()
	if list == nil {
		return []ports.ShardStats{c.entry.Stats(batch.ShardName(0))}
	}
	out := make([]ports.ShardStats, len(*list))
	for i, t := range *list {
		out[i] = t.Batcher.Stats(t.Name)
	}
	return out
}

// Batchers returns the number of nodes that have a batcher of their own.
func (c *Cluster) Batchers() (n int) {
	for range c.all() {
		n++
	}
	return n - 1 // the entry is no node's
}

// Stop ends the probes and the readings of the table of slots. Calls still reach the nodes.
func (c *Cluster) Stop() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.cancel()
	for b := range c.all() {
		b.Stop()
	}
}

// Close closes the clients, and waits for what Stop has ended. Calls that are under way fail. A borrowed client stays open,
// and what go-redis still does with it is not waited for.
func (c *Cluster) Close() error {
	var err error
	if !c.calls.borrowed {
		err = errors.Join(c.client.Close(), c.seed.Close())
	}
	c.background.Wait()
	for b := range c.all() {
		b.Wait()
	}
	return err
}

// all iterates over the batchers.
func (c *Cluster) all() iter.Seq[*batch.Batcher] {
	return func(yield func(*batch.Batcher) bool) {
		if yield(c.entry) {
			c.batchers.Range(func(_, b any) bool { return yield(b.(*batch.Batcher)) })
		}
	}
}

// learn makes sure that a table of slots was read.
func (c *Cluster) learn(ctx context.Context) error {
	if c.known.Load() {
		return nil
	}
	_, err := within(ctx, c.calls, func() (*redis.Client, error) { return c.client.MasterForKey(ctx, string(batch.ProbeKey)) })
	if err != nil {
		return err
	}
	c.known.Store(true)
	c.refresh()
	return nil
}

// readTable asks a node, or the function of the caller's client, for the ranges of slots, in their order.
func (c *Cluster) readTable(ctx context.Context) ([]redis.ClusterSlot, error) {
	ctx, cancel := context.WithTimeout(ctx, c.budget)
	defer cancel()
	if err := c.learn(ctx); err != nil {
		return nil, err
	}
	ranges, err := within(ctx, c.calls, func() ([]redis.ClusterSlot, error) {
		if table := c.client.Options().ClusterSlots; table != nil {
			ranges, err := table(ctx) // the caller's own, of servers that may be no cluster
			return slices.Clone(ranges), err
		}
		return c.client.ClusterSlots(ctx).Result() //nolint:staticcheck // what go-redis itself asks for, so an ACL allows it
	})
	if err != nil {
		return nil, err
	}
	ranges = slices.DeleteFunc(ranges, func(r redis.ClusterSlot) bool { return !valid(r) })
	if len(ranges) == 0 {
		return nil, errNoSlots
	}
	slices.SortFunc(ranges, func(a, b redis.ClusterSlot) int { return cmp.Compare(a.Start, b.Start) })
	return ranges, nil
}

// refresh reads the table of slots again in the background. go-redis by itself does so only when it is redirected, but a
// dead primary does not redirect to the replica that took its place. The reading begins after the call, so that it sees what
// the caller saw, but not sooner than refreshInterval after the last.
func (c *Cluster) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.due || c.stopped {
		return
	}
	c.due = true
	c.background.Go(func() {
		c.reading.Lock()
		defer c.reading.Unlock()
		select {
		case <-time.After(refreshInterval - time.Since(c.began)):
		case <-c.ctx.Done():
			return
		}
		c.began = time.Now()
		c.mu.Lock()
		c.due = false
		c.mu.Unlock()
		c.update()
	})
}

// update reads the table of slots and drops the batchers of nodes that are no primaries any more. What waits in them is still
// sent.
func (c *Cluster) update() {
	ctx, cancel := context.WithTimeout(c.ctx, refreshTimeout)
	defer cancel()
	primaries, err := within(ctx, c.calls, func() (map[*redis.Client]bool, error) { return c.readPrimaries(ctx) })
	if err != nil {
		return
	}
	c.batchers.Range(func(node, b any) bool {
		if !primaries[node.(*redis.Client)] {
			c.batchers.Delete(node)
			b.(*batch.Batcher).Retire()
			c.background.Go(b.(*batch.Batcher).Wait)
		}
		return true
	})
	c.Targets(ctx) // stores the shards
	before := c.primaries
	c.primaries = primaries
	for node := range before {
		if !primaries[node] {
			c.onFailover()
			return
		}
	}
}

// readPrimaries has go-redis read the table of slots, and returns the clients of the primaries.
func (c *Cluster) readPrimaries(ctx context.Context) (map[*redis.Client]bool, error) {
	var mu sync.Mutex
	primaries := make(map[*redis.Client]bool)
	err := c.client.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		primaries[node] = true
		return nil
	})
	return primaries, err
}

// slots is the number of slots of a Redis Cluster.
const slots = 16384

// valid reports whether a range of slots has an owner and makes sense: a garbled answer may hold anything.
func valid(r redis.ClusterSlot) bool {
	return len(r.Nodes) > 0 && r.Start >= 0 && r.Start <= r.End && r.End < slots
}

// keyInSlots returns a probe key of a slot from first to last.
func keyInSlots(first, last int) clientkey.BucketKey {
	for i := 0; ; i++ {
		key := numberedProbeKey(i)
		if slot := Slot(string(key)); slot >= first && slot <= last {
			return key
		}
	}
}

// numberedProbeKey returns one of many probe keys. Like batch.ProbeKey, they have no colon.
func numberedProbeKey(i int) clientkey.BucketKey {
	return batch.ProbeKey + clientkey.BucketKey(strconv.Itoa(i))
}

// Slot returns the slot of a bucket key: its CRC-16/XMODEM, as the Redis Cluster specification says.
func Slot(key string) int {
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % slots
}
