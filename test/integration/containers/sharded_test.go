//go:build containers

package containers

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// capacity is that of testdata/exact.yml.
const capacity = 100

var shards = []string{"redis-a", "redis-b", "redis-c"}

// docker-compose.sharded.yml: two nodes over three shards, with limits that do not refill. Every test has clients of its own, and leaves
// the project as it was.
func TestSharded(t *testing.T) {
	p := newProject(t, []node{
		{service: "app-1", variable: "VELOCITY_PUBLISH_1"}, {service: "app-2", variable: "VELOCITY_PUBLISH_2"},
	}, "docker-compose.sharded.yml", "exact.yml")
	p.compose(t, "up", "--build", "-d")
	for _, n := range p.nodes {
		p.answersByRedis(t, n, "first")
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *project)
	}{
		{"exact over two nodes and three shards", exact},
		{"a shard stopped", func(t *testing.T, p *project) { shardAway(t, p, "redis-a", "stop", "start") }},
		{"a shard paused", func(t *testing.T, p *project) { shardAway(t, p, "redis-b", "pause", "unpause") }},
		{"a shard killed", func(t *testing.T, p *project) { shardAway(t, p, "redis-c", "kill", "start") }},
		{"a node cut off from a shard", nodeCutOff},
		{"a node killed", nodeKilled},
		{"nodes replaced in turn under load", rollingRestart},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, p) })
		if t.Failed() {
			return
		}
	}
}

// clients makes clients with a prefix, two for each shard.
func (p *project) clients(t *testing.T, prefix string) map[string][]string {
	t.Helper()
	ids := map[string]string{}
	for _, shard := range shards {
		ids[shard] = p.id(t, shard)
	}
	return p.clientsOf(t, p.nodes[0], prefix, ids)
}

// clientsOf makes clients with a prefix, two for each shard, and drains none: each has used one token. The shards are containers by
// name.
func (p *project) clientsOf(t *testing.T, n node, prefix string, shards map[string]string) map[string][]string {
	t.Helper()
	for i := range 24 {
		require.False(t, p.mustCheck(t, n, fmt.Sprint(prefix, "-", i)).byPolicy())
	}
	clients := map[string][]string{}
	for shard, id := range shards {
		for key := range strings.FieldsSeq(redisCLI(t, id, "--scan", "--pattern", "*="+prefix+"-*")) {
			clients[shard] = append(clients[shard], strings.TrimSuffix(key[strings.Index(key, "=")+1:], "}"))
		}
		require.GreaterOrEqual(t, len(clients[shard]), 2, "%s: %v", shard, clients)
		clients[shard] = clients[shard][:2]
	}
	return clients
}

// others returns the clients of all shards but one.
func others(clients map[string][]string, shard string) (list []string) {
	for _, s := range shards {
		if s != shard {
			list = append(list, clients[s]...)
		}
	}
	return list
}

// drained requires that each client gets the tokens that it has left, and no more, over both nodes.
func (p *project) drained(t *testing.T, nodes []node, clients []string, left int) {
	t.Helper()
	for client, n := range p.admitted(t, nodes, clients, 2*capacity) {
		assert.Equal(t, left, n, client)
	}
}

// halfUsed has a client use half of its capacity, and returns how much that is: no denial of it is cached, so that what it gets later
// is what Redis remembers.
func (p *project) halfUsed(t *testing.T, nodes []node, client string) int {
	t.Helper()
	used := p.admitted(t, nodes, []string{client}, capacity/2)[client]
	require.Equal(t, capacity/2, used)
	return used
}

func exact(t *testing.T, p *project) {
	p.drained(t, p.nodes, others(p.clients(t, "exact"), ""), capacity-1)
}

// shardAway takes a shard away and back. Meanwhile its clients are decided by the failure policy, and all others exactly. It forgets
// nothing.
func shardAway(t *testing.T, p *project, shard, away, back string) {
	clients := p.clients(t, away)
	used, fresh := clients[shard][:1], clients[shard][1]
	left := capacity - 1 - p.halfUsed(t, p.nodes, used[0])
	id := p.id(t, shard)
	docker(t, away, id)
	for _, n := range p.nodes {
		// At first a request waits for its whole time. When some have failed, none is sent to the shard any more.
		eventually(t, n.service+" notices", func() bool {
			asked := time.Now()
			return p.mustCheck(t, n, fresh).byPolicy() && time.Since(asked) < time.Second
		})
		for range 20 {
			asked := time.Now()
			assert.True(t, p.mustCheck(t, n, fresh).Allowed, "the policy open")
			assert.Less(t, time.Since(asked), time.Second, "nobody waits for the shard")
		}
	}
	p.drained(t, p.nodes, others(clients, shard), capacity-1)
	docker(t, back, id)
	returned := time.Now()
	for _, n := range p.nodes {
		p.answersByRedis(t, n, fresh)
	}
	t.Logf("both nodes decide by %s again %v after %s", shard, time.Since(returned), back)
	p.drained(t, p.nodes, used, left)
}

// A second network joins the second node with a shard, and the shard leaves the first: only the first node has lost it.
func nodeCutOff(t *testing.T, p *project) {
	const shard = "redis-a"
	clients := p.clients(t, "cut")
	side := p.name + "_side"
	docker(t, "network", "create", side)
	connect := func(network, service string) {
		docker(t, "network", "connect", "--alias", service, network, p.id(t, service))
	}
	disconnect := func(network, service string) { docker(t, "network", "disconnect", network, p.id(t, service)) }
	connect(side, "app-2")
	connect(side, shard)
	disconnect(p.network(), shard)

	eventually(t, "app-1 notices", func() bool { return p.mustCheck(t, p.nodes[0], clients[shard][0]).byPolicy() })
	p.answersByRedis(t, p.nodes[1], clients[shard][0])
	p.drained(t, p.nodes[1:], clients[shard][1:], capacity-1)
	p.drained(t, p.nodes, others(clients, shard), capacity-1)
	assert.True(t, p.mustCheck(t, p.nodes[0], clients[shard][1]).byPolicy(), "app-1 is still cut off")

	connect(p.network(), shard)
	p.answersByRedis(t, p.nodes[0], clients[shard][0])
	disconnect(side, shard)
	disconnect(side, "app-2")
	p.answersByRedis(t, p.nodes[1], clients[shard][0])
	p.drained(t, p.nodes, clients[shard][1:], 0)
}

func nodeKilled(t *testing.T, p *project) {
	clients := others(p.clients(t, "survivor"), "")
	half := p.admitted(t, p.nodes, clients, capacity/2)
	id := p.id(t, p.nodes[0].service)
	docker(t, "kill", id)
	for client, n := range p.admitted(t, p.nodes[1:], clients, capacity) {
		assert.Equal(t, capacity-1, half[client]+n, client)
	}
	docker(t, "start", id)
	p.client.CloseIdleConnections()
	eventually(t, "the node is back", func() bool {
		d, err := p.check(p.nodes[0], "back")
		return err == nil && !d.byPolicy()
	})
	p.drained(t, p.nodes, clients, 0)
}

// Sixteen clients send to both nodes, and leave a node when it says that it closes the connection. No answer is lost, none is given
// by the failure policy, and each client gets exactly its capacity.
func rollingRestart(t *testing.T, p *project) {
	var workers sync.WaitGroup
	var stop atomic.Bool
	var answered atomic.Int64
	var allowed [16]int
	for i := range allowed {
		workers.Go(func() {
			for at := i % 2; !stop.Load(); answered.Add(1) {
				d, err := p.check(p.nodes[at], fmt.Sprint("rolling-", i))
				if !assert.NoError(t, err, "a lost answer") || !assert.False(t, d.byPolicy()) {
					return
				}
				if d.Allowed {
					allowed[i]++
				}
				if d.closing {
					at = 1 - at
				}
			}
		})
	}
	served := func() {
		seen := answered.Load()
		eventually(t, "load", func() bool { return answered.Load() > seen+500 })
	}
	served()
	for _, n := range p.nodes {
		id := p.id(t, n.service)
		docker(t, "stop", id)
		served()
		docker(t, "start", id)
		eventually(t, n.service+" is ready", func() bool {
			_, err := run(nil, "docker", "exec", id, "/velocity", "healthcheck")
			return err == nil
		})
		served()
	}
	stop.Store(true)
	workers.Wait()
	for i, n := range allowed {
		assert.Equal(t, capacity, n, "client %d", i)
	}
}
