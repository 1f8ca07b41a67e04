package redisstore_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/overrides"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/ports/porttest"
)

var (
	overrideChanges = flag.Int("overrides.changes", 60, "random changes of overrides, with faults among them")
	overrideSeed    = flag.Uint64("overrides.seed", 0, "seed of these; 0: a new one, which is logged")
)

// durable servers have lost nothing after kill -9.
var durable = redistest.Args("--appendonly", "yes", "--appendfsync", "always")

// overridesModel makes random changes of overrides on several nodes, and knows what must come of them.
type overridesModel struct {
	t     *testing.T
	rand  *rand.Rand
	nodes []*node
	// want are the effects that each client may have: one, or several if the answer to a change was lost. "" is none.
	want   map[string]map[string]bool
	number int // of the last change
	failed int
}

func newOverridesModel(t *testing.T, nodes ...*node) *overridesModel {
	seed := *overrideSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-overrides.seed=%d", seed)
	return &overridesModel{t: t, rand: rand.New(rand.NewPCG(seed, 0)), nodes: nodes, want: make(map[string]map[string]bool)}
}

// change makes one change at a random node.
func (m *overridesModel) change() {
	m.number++
	client, effect := fmt.Sprintf("client-%d", m.rand.IntN(30)), ""
	var v *override.Value
	if m.rand.IntN(4) > 0 {
		effect = fmt.Sprintf("change %d", m.number)
		v = &override.Value{Effect: effect, Client: client}
	}
	if m.want[client] == nil {
		m.want[client] = map[string]bool{"": true}
	}
	at := m.nodes[m.rand.IntN(len(m.nodes))]
	_, _, err := at.ChangeOverride(m.t.Context(), clientKey(client), v)
	// An override that only one server has, because the other was away, is unknown to the other nodes when that one fails a moment
	// later. The node that made it sends it to them.
	for known := time.Now().Add(patient); errors.Is(err, ports.ErrNoOverride) && !m.want[client][""] && time.Now().Before(known); {
		time.Sleep(10 * time.Millisecond)
		_, _, err = at.ChangeOverride(m.t.Context(), clientKey(client), v)
	}
	switch {
	case err == nil:
		m.want[client] = map[string]bool{effect: true}
	case errors.Is(err, ports.ErrNoOverride):
		require.True(m.t, m.want[client][""], "%s has an override: %v", client, m.want[client])
		m.want[client] = map[string]bool{"": true}
	default:
		require.ErrorIs(m.t, err, ports.ErrUnavailable)
		m.want[client][effect] = true
		m.failed++
	}
}

// awaitEqual waits until all nodes and servers hold the same entries, and returns these.
func (m *overridesModel) awaitEqual(servers ...*redis.Client) map[clientkey.BucketKey]override.Entry {
	m.t.Helper()
	var all map[clientkey.BucketKey]override.Entry
	require.Eventually(m.t, func() bool {
		all = entriesOf(m.nodes[0])
		for _, n := range m.nodes[1:] {
			if !maps.Equal(all, entriesOf(n)) {
				return false
			}
		}
		for _, server := range servers {
			stored, ok := storedEntries(m.t, server)
			if !ok || !maps.Equal(all, stored) {
				return false
			}
		}
		return true
	}, 3*time.Minute, 20*time.Millisecond, "the nodes and servers do not agree")
	return all
}

// check requires that all nodes and servers end up with what the model says.
func (m *overridesModel) check(servers ...*redis.Client) {
	m.t.Helper()
	m.t.Logf("%d changes, %d without an answer", m.number, m.failed)
	all := m.awaitEqual(servers...)
	for client, effects := range m.want {
		require.True(m.t, effects[all[clientKey(client)].Effect], "%s has %q, and not one of %v", client, all[clientKey(client)].Effect, effects)
	}
}

func entriesOf(n *node) map[clientkey.BucketKey]override.Entry {
	all := make(map[clientkey.BucketKey]override.Entry)
	n.Overrides().All(func(e override.Entry) { all[e.Key] = e })
	return all
}

// storedEntries reads a server's Hash, and checks its counts.
func storedEntries(t *testing.T, c *redis.Client) (map[clientkey.BucketKey]override.Entry, bool) {
	fields, err := c.HGetAll(t.Context(), overrides.Key).Result()
	if err != nil {
		return nil, false
	}
	all, counted := make(map[clientkey.BucketKey]override.Entry), override.NewTable()
	for field, text := range fields {
		if field == "=" || strings.HasPrefix(field, "#") {
			continue
		}
		e, err := override.ParseEntry(clientkey.BucketKey(field), text)
		require.NoError(t, err)
		all[e.Key] = e
		counted.Merge(e)
	}
	s := counted.Stats()
	_, meta, _ := strings.Cut(fields["="], " ")
	return all, len(all) == 0 || meta == fmt.Sprint(s.Sum, s.Live, s.Entries, s.Bytes)
}

// wipe removes what a server that is down has saved.
func wipe(t *testing.T, s *redistest.Server) {
	require.NoError(t, os.RemoveAll(filepath.Join(s.Dir, "appendonlydir")))
}

// Shards are killed, emptied, paused, and added, and nodes restarted, while overrides change. In the end every node and every shard
// has exactly what was acknowledged.
func TestOverrides_surviveFaults(t *testing.T) {
	t.Parallel()
	servers, addrs := redistest.StartN(t, 3, durable)
	clients := make([]*redis.Client, 0, len(servers)+1)
	for _, addr := range addrs {
		clients = append(clients, plainClient(t, addr))
	}
	inUse := addrs[:2] // the third is added later
	start := func() *node { return newNode(t, redisstore.DefaultConfig(inUse...), ports.DefaultOverrideBounds) }
	m := newOverridesModel(t, start(), start(), start())
	undo := func() {}
	faults := map[string]func(s *redistest.Server, c *redis.Client){
		"kill, and restart with the data": func(s *redistest.Server, _ *redis.Client) {
			s.Kill()
			undo = s.Restart
		},
		"kill all, and restart them with the data": func(*redistest.Server, *redis.Client) {
			for i := range inUse {
				servers[i].Kill()
			}
			undo = func() {
				for i := range inUse {
					servers[i].Restart()
				}
			}
		},
		"kill, and restart without data": func(s *redistest.Server, _ *redis.Client) {
			s.Kill()
			undo = func() {
				wipe(t, s)
				s.Restart()
			}
		},
		"empty": func(_ *redistest.Server, c *redis.Client) {
			require.NoError(t, c.FlushAll(t.Context()).Err())
		},
		"pause": func(s *redistest.Server, _ *redis.Client) {
			s.Pause()
			undo = s.Resume
		},
		"edit": func(_ *redistest.Server, c *redis.Client) {
			require.NoError(t, c.HDel(t.Context(), overrides.Key, "=").Err())
		},
		"restart a node": func(*redistest.Server, *redis.Client) {
			m.awaitEqual() // what only this node knew would be lost with it
			i := m.rand.IntN(len(m.nodes))
			m.nodes[i].stop()
			m.nodes[i] = start()
			require.Eventually(t, func() bool { return m.nodes[i].OverridesStatus().Known }, patient, time.Millisecond)
		},
	}
	names := slices.Sorted(maps.Keys(faults))
	const changesEach = 10
	for i := range *overrideChanges {
		if i%changesEach == changesEach/2 {
			at := m.rand.IntN(len(inUse))
			faults[names[m.rand.IntN(len(names))]](servers[at], clients[at])
		}
		m.change()
		if i%changesEach == changesEach-1 {
			undo()
			undo = func() {}
		}
		if i == *overrideChanges/2 {
			m.awaitEqual()
			inUse = addrs
			for k := range m.nodes {
				m.nodes[k].stop()
				m.nodes[k] = start()
				m.awaitEqual()
			}
		}
	}
	undo()
	m.check(clients...)
}

// The only server forgets, goes away for good, or is replaced by an older state: the nodes know better.
func TestOverrides_areWrittenBack(t *testing.T) {
	t.Parallel()
	servers, addrs := redistest.StartN(t, 1, durable)
	server, client := servers[0], plainClient(t, addrs[0])
	start := func() *node { return newNode(t, redisstore.DefaultConfig(addrs...), ports.DefaultOverrideBounds) }
	m := newOverridesModel(t, start(), start())
	for range 20 {
		m.change()
	}
	m.check(client)
	old, err := client.Dump(t.Context(), overrides.Key).Result()
	require.NoError(t, err)
	for range 20 {
		m.change()
	}
	require.NoError(t, client.FlushAll(t.Context()).Err())
	m.check(client)
	require.NoError(t, client.RestoreReplace(t.Context(), overrides.Key, 0, old).Err())
	m.check(client)

	server.Kill()
	wipe(t, server)
	m.awaitEqual()
	_, _, err = m.nodes[0].ChangeOverride(t.Context(), clientKey("client-0"), &override.Value{Effect: "block"})
	require.ErrorIs(t, err, ports.ErrUnavailable)
	m.nodes[1].stop()
	m.nodes[1] = start()
	require.False(t, m.nodes[1].OverridesStatus().Known, "it has never seen them")
	require.True(t, m.nodes[0].OverridesStatus().Known)
	server.Restart()
	m.check(client)
	require.Eventually(t, func() bool { return m.nodes[1].OverridesStatus().Known }, patient, time.Millisecond)
	require.Less(t, m.nodes[0].OverridesStatus().Behind, patient)
}

// Everything restarts at once, and nothing is lost that Redis has saved.
func TestOverrides_surviveARestartOfEverything(t *testing.T) {
	t.Parallel()
	servers, addrs := redistest.StartN(t, 2, durable)
	start := func() *node { return newNode(t, redisstore.DefaultConfig(addrs...), ports.DefaultOverrideBounds) }
	m := newOverridesModel(t, start(), start())
	n := *overrideChanges*100 - 30 // with 1,000, and the clients of the changes, 100,000
	many := make([]override.Entry, n)
	for i := range many {
		client := fmt.Sprint(i)
		many[i] = override.Entry{Key: clientKey(client), Version: 1, Value: override.Value{Effect: "exempt", Client: client}}
	}
	m.nodes[0].Overrides().Merge(many...) // as if Redis had lost them all
	m.awaitEqual(plainClient(t, addrs[0]), plainClient(t, addrs[1]))
	for range 10 {
		m.change()
	}
	for _, node := range m.nodes {
		node.stop()
	}
	for _, s := range servers {
		s.Kill()
		s.Restart()
	}
	m.nodes = []*node{start(), start()}
	require.Eventually(t, func() bool { return m.nodes[0].Overrides().Stats().Entries >= n }, time.Minute, time.Millisecond)
	m.check(plainClient(t, addrs[0]), plainClient(t, addrs[1]))
}

func TestOverrides_theDocumentedACLIsEnough(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, withUser(limiterACL...))
	cfg := redisstore.DefaultConfig(server.Addr)
	cfg.Username, cfg.Password = "limiter", password
	m := newOverridesModel(t, newNode(t, cfg, ports.DefaultOverrideBounds))
	admin := plainClient(t, server.Addr)
	for range 10 {
		m.change()
	}
	require.Zero(t, m.failed)
	require.NoError(t, admin.HDel(t.Context(), overrides.Key, "=").Err())
	m.check(admin)
}

// The rules that earlier releases needed do, as long as there are no overrides.
func TestOverrides_anOlderACLIsEnoughForNone(t *testing.T) {
	t.Parallel()
	older := slices.DeleteFunc(slices.Clone(limiterACL), func(rule string) bool { return rule == "+hscan" })
	server := redistest.Start(t, withUser(older...))
	cfg := redisstore.DefaultConfig(server.Addr)
	cfg.Username, cfg.Password = "limiter", password
	n := newNode(t, cfg, ports.DefaultOverrideBounds)
	require.Eventually(t, func() bool { return n.OverridesStatus().Known }, patient, time.Millisecond)
}

func clusterOverrides(t *testing.T, c *redistest.Cluster) {
	flush := func(t *testing.T) {
		for _, server := range primaries(t, c) {
			require.NoError(t, c.Client(server).FlushAll(t.Context()).Err())
		}
	}
	configure := func() redisstore.Config {
		cfg := redisstore.DefaultConfig(c.Addrs()...)
		cfg.Topology = redisstore.TopologyCluster
		return cfg
	}
	porttest.TestOverrideStore(t, overrideHarness(configure, flush, nil))
	flush(t)
	m := newOverridesModel(t, newNode(t, configure(), ports.DefaultOverrideBounds), newNode(t, configure(), ports.DefaultOverrideBounds))
	slot := c.Slot(overrides.Key)
	for range 5 {
		m.change()
	}
	old := c.Owner(slot)
	for range 5 {
		m.change()
	}
	c.Failover(old)
	for range 10 {
		m.change()
	}
	next := c.Owner(slot)
	var dest *redistest.Server
	for _, p := range primaries(t, c) {
		if p != next {
			dest = p
		}
	}
	c.MoveSlot(slot, dest)
	for range 10 {
		m.change()
	}
	replica := c.Replica(dest)
	dest.Kill()
	m.change()
	c.AwaitPrimary(replica)
	for range 10 {
		m.change()
	}
	dest.Restart()
	c.AwaitWhole()
	for range 5 {
		m.change()
	}
	m.check(c.Client(c.Owner(slot)))
	c.MoveSlot(slot, next) // where the other parts expect it
}

func sentinelOverrides(t *testing.T, s *redistest.Sentinels) {
	configure := func() redisstore.Config {
		cfg := redisstore.DefaultConfig(s.Addrs()...)
		cfg.Topology, cfg.SentinelMaster = redisstore.TopologySentinel, redistest.SentinelMaster
		return cfg
	}
	flush := func(t *testing.T) { require.NoError(t, s.Client(s.Primary()).FlushAll(t.Context()).Err()) }
	porttest.TestOverrideStore(t, overrideHarness(configure, flush, nil))
	flush(t)
	m := newOverridesModel(t, newNode(t, configure(), ports.DefaultOverrideBounds), newNode(t, configure(), ports.DefaultOverrideBounds))
	for range 10 {
		m.change()
	}
	s.Failover()
	for range 10 {
		m.change()
	}
	s.AwaitWhole()
	old := s.Primary()
	old.Kill()
	m.change()
	s.AwaitPrimary(s.Other(old))
	for range 10 {
		m.change()
	}
	old.Restart()
	s.AwaitWhole()
	m.check(s.Client(s.Primary()))
}
