package redistest

import (
	"context"
	"fmt"
	"net"
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

	t       testing.TB
	clients map[*Server]*redis.Client
}

// StartCluster starts a cluster of so many primaries, with so many replicas each, and returns when every node finds it
// whole. Slots that no primary serves fail alone, as cluster-require-full-coverage no says, and a primary that is
// silent for a second is replaced.
func StartCluster(t testing.TB, primaries, replicasEach int) *Cluster {
	t.Helper()
	c := &Cluster{t: t, clients: make(map[*Server]*redis.Client)}
	ports := make(map[*Server]int) // of the cluster's bus
	for range primaries * (1 + replicasEach) {
		bus := FreePort(t)
		s := Start(t, Args("--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus),
			"--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no",
			"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"))
		c.Nodes, ports[s] = append(c.Nodes, s), bus
		client := newClient(s.Addr)
		t.Cleanup(func() { _ = client.Close() })
		c.clients[s] = client
	}
	for i, s := range c.Nodes {
		c.must(s, "cluster", "set-config-epoch", i+1) // nodes of one epoch quarrel about slots until they have others
	}
	for i, s := range c.Nodes {
		if i > 0 {
			c.must(c.Nodes[0], "cluster", "meet", "127.0.0.1", s.port, ports[s])
		}
		if i < primaries {
			c.must(s, "cluster", "addslotsrange", i*clusterSlots/primaries, (i+1)*clusterSlots/primaries-1)
		}
	}
	c.await("the nodes to meet", func() bool {
		for _, s := range c.Nodes {
			if !strings.Contains(c.text(s, "cluster", "info"), fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes))) {
				return false
			}
		}
		return true
	})
	for i, s := range c.Nodes[primaries:] {
		c.must(s, "cluster", "replicate", c.ID(c.Nodes[i%primaries]))
	}
	c.AwaitWhole()
	return c
}

// Addrs are the addresses of all nodes, in the order of Nodes.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, s := range c.Nodes {
		addrs = append(addrs, s.Addr)
	}
	return addrs
}

// Client is a client of one node, which follows no redirects.
func (c *Cluster) Client(s *Server) *redis.Client { return c.clients[s] }

// ID is the node's name in the cluster.
func (c *Cluster) ID(s *Server) string { return c.text(s, "cluster", "myid") }

// Slot is the slot of a key.
func (c *Cluster) Slot(key string) int {
	c.t.Helper()
	slot, err := c.clients[c.alive()].ClusterKeySlot(context.Background(), key).Result()
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
// tell the same of the slots. It fails the test if that takes too long.
func (c *Cluster) AwaitWhole() {
	c.t.Helper()
	c.await("the cluster to be whole", func() bool {
		var first string
		living := 0
		for _, s := range c.Nodes {
			if !s.exited() {
				living++
			}
		}
		for _, s := range c.Nodes {
			if s.exited() {
				continue
			}
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
			if len(listed) != living {
				return false
			}
			if first == "" {
				first = table.String()
			}
			if table.String() != first {
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
	c.await("a failover to "+s.Addr, func() bool {
		return strings.Contains(c.text(s, "info", "replication"), "role:master")
	})
}

// OpenSlot begins to move a slot: keys that the owner does not hold are asked for at the other node from now on.
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
		keys, err := c.clients[from].ClusterGetKeysInSlot(context.Background(), slot, 100).Result()
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

// CloseSlot ends the move of a slot: all primaries are told whose it is, the new owner first, which claims it with a
// new epoch.
func (c *Cluster) CloseSlot(slot int, to *Server) {
	c.t.Helper()
	from := c.Owner(slot)
	c.must(to, "cluster", "setslot", slot, "node", c.ID(to))
	c.must(from, "cluster", "setslot", slot, "node", c.ID(to))
	told := map[string]bool{to.Addr: true, from.Addr: true}
	for _, r := range c.table(from) {
		if primary := r.Nodes[0].Addr; !told[primary] {
			told[primary] = true
			c.must(c.server(primary), "cluster", "setslot", slot, "node", c.ID(to))
		}
	}
}

// MoveSlot moves a slot with its keys. Moves in two directions at once may leave a slot without an owner: a claim that
// is still under way counts for more than a newer one of a lower epoch. So AwaitWhole between them.
func (c *Cluster) MoveSlot(slot int, to *Server) {
	c.t.Helper()
	from := c.Owner(slot)
	c.OpenSlot(slot, to)
	c.MoveKeys(slot, from, to)
	c.CloseSlot(slot, to)
}

func (c *Cluster) table(s *Server) []redis.ClusterSlot {
	ranges, err := c.clients[s].ClusterSlots(context.Background()).Result() //nolint:staticcheck // the table that clients read
	if err != nil {
		c.t.Fatalf("CLUSTER SLOTS of %s: %v", s.Addr, err)
	}
	return ranges
}

func (c *Cluster) server(addr string) *Server {
	c.t.Helper()
	for _, s := range c.Nodes {
		if s.Addr == addr {
			return s
		}
	}
	c.t.Fatalf("%s is no node of the cluster", addr)
	return nil
}

// alive is a node that runs.
func (c *Cluster) alive() *Server {
	c.t.Helper()
	for _, s := range c.Nodes {
		if !s.exited() {
			return s
		}
	}
	c.t.Fatal("no node of the cluster is alive")
	return nil
}

func (c *Cluster) must(s *Server, args ...any) {
	c.t.Helper()
	if err := c.clients[s].Do(context.Background(), args...).Err(); err != nil {
		c.t.Fatalf("%v at %s: %v", args, s.Addr, err)
	}
}

func (c *Cluster) text(s *Server, args ...any) string {
	text, _ := c.clients[s].Do(context.Background(), args...).Text() // a node that does not answer says nothing
	return text
}

func (c *Cluster) await(what string, done func() bool) {
	c.t.Helper()
	await(c.t, what, done)
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

// newClient is a plain client of one server, patient with a busy machine.
func newClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, Protocol: 2, DisableIdentity: true, PipelinePoolSize: -1, MaxRetries: -1, DialerRetries: 1,
		ReadTimeout: startTimeout, DialTimeout: startTimeout,
	})
}

func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr) // ours, so it can be split
	return host
}
