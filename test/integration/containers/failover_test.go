//go:build containers

package containers

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// redisServers starts servers with one configuration in a network, and returns their containers and their addresses.
func redisServers(t *testing.T, network string, n int, config ...string) (ids, addrs []string) {
	t.Helper()
	for range n {
		id := start(t, append([]string{"--network", network, redisImage, "redis-server"}, config...)...)
		eventually(t, "Redis answers", func() bool {
			_, err := run(nil, "docker", "exec", id, "redis-cli", "-e", "ping")
			return err == nil
		})
		ids, addrs = append(ids, id), append(addrs, address(t, id))
	}
	return ids, addrs
}

// limited runs the image with limits that do not refill, and time for a busy machine, as a node of a project that has no compose file.
func limited(t *testing.T, network string, env ...string) (*project, []node) {
	t.Helper()
	args := []string{
		"--network", network, "-e", "VELOCITY_API_TOKEN=" + token, "-e", "VELOCITY_RATE=1/24h", "-e", "VELOCITY_CAPACITY=100",
		"-e", "VELOCITY_TAKE_TIMEOUT=2s",
	}
	for _, variable := range env {
		args = append(args, "-e", variable)
	}
	_, url := startVelocity(t, args...)
	return &project{client: &http.Client{Timeout: 10 * time.Second}}, []node{{service: "velocity", addr: strings.TrimPrefix(url, "http://")}}
}

// A sentinel makes the replica the primary when the primary's container is killed. What clients have used is not forgotten.
func TestContainer_followsSentinels(t *testing.T) {
	net := network(t)
	servers, addrs := redisServers(t, net, 2)
	primary, replica := servers[0], servers[1]
	redisCLI(t, replica, "replicaof", addrs[0], "6379")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sentinel.conf"), []byte("sentinel monitor main "+addrs[0]+" 6379 1\n"+
		"sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"), 0o600))
	// A sentinel writes what it learns into its configuration.
	sentinel := start(t, "--network", net, "-v", dir+":/sentinel", redisImage, "redis-sentinel", "/sentinel/sentinel.conf")
	eventually(t, "the sentinel knows the replica", func() bool {
		return strings.Contains(redisCLI(t, sentinel, "-p", "26379", "sentinel", "replicas", "main"), addrs[1])
	})

	p, nodes := limited(t, net, "VELOCITY_STORE=redis-sentinel", "VELOCITY_REDIS_ADDRS="+address(t, sentinel)+":26379", "VELOCITY_REDIS_SENTINEL_MASTER=main")
	p.answersByRedis(t, nodes[0], "first")
	left := capacity - p.halfUsed(t, nodes, "used")
	require.Equal(t, "1", redisCLI(t, primary, "wait", "1", "5000"), "the replica has it")

	killed := time.Now()
	docker(t, "kill", primary)
	eventually(t, "the node notices", func() bool { return p.mustCheck(t, nodes[0], "first").byPolicy() })
	p.answersByRedis(t, nodes[0], "first")
	t.Logf("decided by the replica after %v", time.Since(killed))
	p.drained(t, nodes, []string{"used"}, left)
	assert.Contains(t, redisCLI(t, replica, "role"), "master")
}

// A replica takes the slots of a node that is killed. Only that node's clients are decided by the failure policy meanwhile.
func TestContainer_followsACluster(t *testing.T) {
	net := network(t)
	servers, addrs := redisServers(t, net, 4, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
		"--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0")
	create := []string{"--cluster-yes", "--cluster", "create"}
	for _, addr := range addrs[:3] {
		create = append(create, addr+":6379")
	}
	redisCLI(t, servers[0], create...)
	everyNode := func(what, text string) {
		for _, id := range servers {
			eventually(t, what, func() bool { return strings.Contains(redisCLI(t, id, "cluster", "info"), text) })
		}
	}
	replica := servers[3]
	redisCLI(t, replica, "cluster", "meet", addrs[0], "6379")
	everyNode("the nodes know each other", "cluster_known_nodes:4")
	eventually(t, "the cluster has a replica", func() bool {
		_, err := run(nil, "docker", "exec", replica, "redis-cli", "-e", "cluster", "replicate", redisCLI(t, servers[0], "cluster", "myid"))
		return err == nil
	})
	everyNode("every slot is served", "cluster_slots_ok:16384")

	p, nodes := limited(t, net, "VELOCITY_STORE=redis-cluster", "VELOCITY_REDIS_ADDRS="+addrs[1]+":6379,"+addrs[2]+":6379")
	p.answersByRedis(t, nodes[0], "first")
	clients := p.clientsOf(t, nodes[0], "used", map[string]string{"a": servers[0], "b": servers[1], "c": servers[2]})
	used, probe := clients["a"][0], clients["a"][1]
	left := capacity - 1 - p.halfUsed(t, nodes, used)
	eventually(t, "the replica follows", func() bool { return redisCLI(t, servers[0], "wait", "1", "5000") == "1" })

	killed := time.Now()
	docker(t, "kill", servers[0])
	eventually(t, "the node notices", func() bool { return p.mustCheck(t, nodes[0], probe).byPolicy() })
	p.drained(t, nodes, append(clients["b"], clients["c"]...), capacity-1)
	p.answersByRedis(t, nodes[0], probe)
	t.Logf("decided by the replica after %v", time.Since(killed))
	p.drained(t, nodes, []string{used}, left)
}
