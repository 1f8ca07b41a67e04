package redistest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// clusterSlots is how many slots a Redis Cluster has.
const clusterSlots = 16384

// Cluster is a Redis Cluster of real processes. It belongs to the test that started it.
type Cluster struct {
	// Nodes are the primaries, as they were at the start, then the replicas.
	Nodes []*Server

	t testing.TB
}

// StartCluster starts a cluster of so many primaries, with so many replicas each, and returns when every node finds it
// whole. Only slots that no primary serves fail (cluster-require-full-coverage no), and a primary that is silent for a
// second is replaced.
func StartCluster(t testing.TB, primaries, replicasEach int) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	ports := make(map[*Server]int) // of the cluster's bus
	for i := range primaries * (1 + replicasEach) {
		s, bus := startNode(t)
		c.Nodes, ports[s] = append(c.Nodes, s), bus
		c.must(s, "cluster", "set-config-epoch", i+1) // nodes of one epoch contest slots until their epochs differ
	}
	for i, s := range c.Nodes {
		if i > 0 {
			c.must(c.Nodes[0], "cluster", "meet", "127.0.0.1", s.port, ports[s])
		}
		if i < primaries {
			c.must(s, "cluster", "addslotsrange", i*clusterSlots/primaries, (i+1)*clusterSlots/primaries-1)
		}
	}
	c.AwaitMet()
	for i, s := range c.Nodes[primaries:] {
		c.must(s, "cluster", "replicate", c.ID(c.Nodes[i%primaries]))
	}
	c.AwaitWhole()
	return c
}

// startNode starts a node that is in no cluster yet, and returns it with the port of its bus.
func startNode(t testing.TB) (s *Server, bus int) {
	t.Helper()
	bus = FreePort(t)
	return Start(t, Args("--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus),
		"--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no",
		"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")), bus
}

// StartSpare starts a node that knows no other. The test adds it to the cluster, and gives it slots before AwaitWhole.
func (c *Cluster) StartSpare() *Server {
	c.t.Helper()
	s, _ := startNode(c.t)
	c.Nodes = append(c.Nodes, s)
	return s
}

// AwaitMet waits until each node knows as many as there are.
func (c *Cluster) AwaitMet() {
	c.t.Helper()
	await(c.t, "the nodes to meet", func() bool {
		for _, s := range c.Nodes {
			if !strings.Contains(c.text(s, "cluster", "info"), fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes))) {
				return false
			}
		}
		return true
	})
}

// Addrs are the addresses of all nodes, in the order of Nodes.
func (c *Cluster) Addrs() []string { return addrsOf(c.Nodes) }

func addrsOf(servers []*Server) []string {
	addrs := make([]string, len(servers))
	for i, s := range servers {
		addrs[i] = s.Addr
	}
	return addrs
}

// Client is a client of one node that does not follow redirects.
func (c *Cluster) Client(s *Server) *redis.Client { return s.client }

// ID is the node's name in the cluster.
func (c *Cluster) ID(s *Server) string { return c.text(s, "cluster", "myid") }

// Slot is the slot of a key.
func (c *Cluster) Slot(key string) int {
	c.t.Helper()
	slot, err := c.alive().client.ClusterKeySlot(context.Background(), key).Result()
	if err != nil {
		c.t.Fatalf("CLUSTER KEYSLOT: %v", err)
	}
	return int(slot)
}

// Owner is the primary that serves a slot, as a node that lives knows it.
func (c *Cluster) Owner(slot int) *Server {
	c.t.Helper()
	for _, r := range c.table(c.alive()) {
		if slot >= r.Start && slot <= r.End {
			return c.server(r.Nodes[0].Addr)
		}
	}
	c.t.Fatalf("no node serves slot %d", slot)
	return nil
}

// Replica is a replica of the primary.
func (c *Cluster) Replica(primary *Server) *Server {
	c.t.Helper()
	for _, r := range c.table(c.alive()) {
		if r.Nodes[0].Addr == primary.Addr && len(r.Nodes) > 1 {
			return c.server(r.Nodes[1].Addr)
		}
	}
	c.t.Fatalf("%s has no replica", primary.Addr)
	return nil
}

// AwaitWhole waits until every node that lives finds all slots served, its replication up, all nodes listed, and all
// report the same table of slots. It fails the test if that takes too long.
func (c *Cluster) AwaitWhole() {
	c.t.Helper()
	await(c.t, "the cluster to be whole", func() bool {
		var first string
		living := slices.DeleteFunc(slices.Clone(c.Nodes), (*Server).exited)
		for _, s := range living {
			info := c.text(s, "cluster", "info")
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_slots_ok:16384") {
				return false
			}
			replication := c.text(s, "info", "replication")
			if strings.Contains(replication, "role:slave") && !strings.Contains(replication, "master_link_status:up") {
				return false
			}
			var table strings.Builder
			listed := make(map[string]bool)
			for _, r := range c.table(s) {
				fmt.Fprintln(&table, r.Start, r.End, r.Nodes[0].Addr, len(r.Nodes))
				for _, node := range r.Nodes {
					listed[node.Addr] = true
				}
			}
			if first = cmp.Or(first, table.String()); len(listed) != len(living) || table.String() != first {
				return false
			}
		}
		return first != ""
	})
}

// Failover has a replica take the place of its primary, which lives on as its replica, and returns the new primary.
func (c *Cluster) Failover(primary *Server) *Server {
	c.t.Helper()
	replica := c.Replica(primary)
	c.must(replica, "cluster", "failover")
	c.AwaitPrimary(replica)
	c.AwaitWhole()
	return replica
}

// AwaitPrimary waits until the node serves slots itself.
func (c *Cluster) AwaitPrimary(s *Server) {
	c.t.Helper()
	await(c.t, "a failover to "+s.Addr, func() bool {
		return strings.Contains(c.text(s, "info", "replication"), "role:master")
	})
}

// OpenSlot begins to move a slot: from now on the owner redirects requests for keys that it does not hold to the other node.
func (c *Cluster) OpenSlot(slot int, to *Server) {
	c.t.Helper()
	from := c.Owner(slot)
	c.must(to, "cluster", "setslot", slot, "importing", c.ID(from))
	c.must(from, "cluster", "setslot", slot, "migrating", c.ID(to))
}

// MoveKeys moves all keys of a slot from one node to the other.
func (c *Cluster) MoveKeys(slot int, from, to *Server) {
	c.t.Helper()
	for {
		keys, err := from.client.ClusterGetKeysInSlot(context.Background(), slot, 100).Result()
		if err != nil {
			c.t.Fatalf("CLUSTER GETKEYSINSLOT: %v", err)
		}
		if len(keys) == 0 {
			return
		}
		args := []any{"migrate", "127.0.0.1", to.port, "", 0, 5000, "keys"}
		for _, key := range keys {
			args = append(args, key)
		}
		c.must(from, args...)
	}
}

// MoveKey moves one key from one node to the other.
func (c *Cluster) MoveKey(key string, from, to *Server) {
	c.t.Helper()
	c.must(from, "migrate", "127.0.0.1", to.port, key, 0, 5000)
}

// CloseSlot ends the move of a slot. It names the new owner to all primaries, to the new owner itself first, which claims
// the slot with a new epoch.
func (c *Cluster) CloseSlot(slot int, to *Server) {
	c.t.Helper()
	from := c.Owner(slot)
	c.must(to, "cluster", "setslot", slot, "node", c.ID(to))
	c.must(from, "cluster", "setslot", slot, "node", c.ID(to))
	informed := []*Server{to, from}
	for _, r := range c.table(from) {
		if primary := c.server(r.Nodes[0].Addr); !slices.Contains(informed, primary) {
			informed = append(informed, primary)
			c.must(primary, "cluster", "setslot", slot, "node", c.ID(to))
		}
	}
}

// MoveSlot moves a slot with its keys. Moves in two directions at once may leave a slot without an owner: a claim that
// is still under way outweighs a newer one of a lower epoch. So call AwaitWhole between them.
func (c *Cluster) MoveSlot(slot int, to *Server) {
	c.t.Helper()
	from := c.Owner(slot)
	c.OpenSlot(slot, to)
	c.MoveKeys(slot, from, to)
	c.CloseSlot(slot, to)
}

func (c *Cluster) table(s *Server) []redis.ClusterSlot {
	ranges, err := s.client.ClusterSlots(context.Background()).Result() //nolint:staticcheck // the table that clients read
	if err != nil {
		c.t.Fatalf("CLUSTER SLOTS of %s: %v", s.Addr, err)
	}
	return ranges
}

func (c *Cluster) server(addr string) *Server {
	c.t.Helper()
	return find(c.t, "node at "+addr, c.Nodes, func(s *Server) bool { return s.Addr == addr })
}

// alive is a node that runs.
func (c *Cluster) alive() *Server {
	c.t.Helper()
	return find(c.t, "node that is alive", c.Nodes, func(s *Server) bool { return !s.exited() })
}

func (c *Cluster) must(s *Server, args ...any) {
	c.t.Helper()
	if err := s.client.Do(context.Background(), args...).Err(); err != nil {
		c.t.Fatalf("%v at %s: %v", args, s.Addr, err)
	}
}

func (c *Cluster) text(s *Server, args ...any) string {
	text, _ := s.client.Do(context.Background(), args...).Text() // a node that does not answer says nothing
	return text
}

// find returns the first server that is as wanted.
func find(t testing.TB, what string, servers []*Server, wanted func(*Server) bool) *Server {
	t.Helper()
	i := slices.IndexFunc(servers, wanted)
	if i < 0 {
		t.Fatalf("there is no %s", what)
	}
	return servers[i]
}

// await polls until done reports true.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(startTimeout); !done(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", startTimeout, what)
		}
	}
}
