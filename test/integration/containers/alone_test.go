//go:build containers

package containers

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

const redisImage = "redis:7.4-alpine" // that of the compose files

// image builds the Dockerfile as compose does, whose cache the tests of the compose files use, too, and returns the image's name.
var image = sync.OnceValues(func() (string, error) {
	_, err := run(nil, append(composeCommand(), "-f", "docker-compose.sharded.yml", "build", "app-1")...)
	return "velocity", err
})

// start runs a container, which the end of the test removes. The arguments are those of docker run.
func start(t *testing.T, args ...string) (id string) {
	t.Helper()
	id = docker(t, append([]string{"run", "-d"}, args...)...)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("docker", "logs", "--tail", "20", id).CombinedOutput()
			t.Logf("the log of %v:\n%s", args, out)
		}
		docker(t, "rm", "-f", "-v", id)
	})
	return id
}

// network makes a network of the engine, which the end of the test removes.
func network(t *testing.T, args ...string) string {
	t.Helper()
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	docker(t, append(append([]string{"network", "create"}, args...), name)...)
	t.Cleanup(func() { docker(t, "network", "rm", name) })
	return name
}

// startVelocity runs the image without rights, and waits until it answers. The arguments are further ones of docker run.
func startVelocity(t *testing.T, args ...string) (id, url string) {
	t.Helper()
	built, err := image()
	require.NoError(t, err)
	addr := freeAddr(t)
	args = append([]string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "-p", addr + ":3000"}, args...)
	id = start(t, append(args, built)...)
	eventually(t, "the image answers", func() bool {
		_, err := run(nil, "docker", "exec", id, "/velocity", "healthcheck")
		return err == nil
	})
	return id, "http://" + addr
}

// get requests a URL on a connection of its own.
func get(url string) (harness.Response, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return harness.Response{}, err
	}
	req.Close = true
	return harness.Send(&http.Client{Timeout: waitTimeout}, req)
}

func mustGet(t *testing.T, url string) harness.Response {
	t.Helper()
	resp, err := get(url)
	require.NoError(t, err)
	return resp
}

// As on platforms that choose a user id for each container.
func TestContainer_runsAsAnyUser(t *testing.T) {
	_, url := startVelocity(t, "--user", "31415:27182")
	assert.Equal(t, http.StatusOK, mustGet(t, url+"/api/resource").Status)
}

func TestContainer_ofTheUpstreamIsGone(t *testing.T) {
	net := network(t)
	upstream, _ := startVelocity(t, "--network", net, "-e", "VELOCITY_CAPACITY=1000")
	_, url := startVelocity(t, "--network", net, "-e", "VELOCITY_CAPACITY=1000", "-e", "VELOCITY_UPSTREAM_URL=http://"+address(t, upstream)+":3000")
	require.Equal(t, http.StatusOK, mustGet(t, url+"/api/resource").Status)
	docker(t, "kill", upstream) // its address answers nothing

	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			resp, err := get(url + "/api/resource")
			if assert.NoError(t, err) {
				assert.Equal(t, http.StatusBadGateway, resp.Status, resp.Body)
			}
		})
	}
	clients.Wait()
}

// A file in a mounted folder may be replaced by another one, as editors and deployments do it.
func TestContainer_readsAMountedFolderAgain(t *testing.T) {
	dir := t.TempDir()
	write := func(capacity string) {
		file := filepath.Join(dir, "new.yaml")
		require.NoError(t, os.WriteFile(file, []byte("policies: [{ name: default, limits: [{ name: burst, rate: 1/h, capacity: "+capacity+" }] }]\n"), 0o644))
		require.NoError(t, os.Rename(file, filepath.Join(dir, "limits.yaml")))
	}
	write("7")
	_, url := startVelocity(t, "-v", dir+":/etc/velocity:ro", "-e", "VELOCITY_POLICY_FILE=/etc/velocity/limits.yaml")
	require.Equal(t, "7", mustGet(t, url+"/api/resource").Header.Get("X-RateLimit-Limit"))
	write("8")
	eventually(t, "the new file is in force", func() bool {
		return mustGet(t, url+"/api/resource").Header.Get("X-RateLimit-Limit") == "8"
	})
}

// Redis itself says why it closes the connection; so do the log and its advice.
func TestContainer_ofRedisInProtectedMode(t *testing.T) {
	net := network(t)
	redis := start(t, "--network", net, redisImage, "redis-server", "--protected-mode", "yes")
	id, url := startVelocity(t, "--network", net, "-e", "REDIS_ADDR="+address(t, redis)+":6379")
	assert.Equal(t, "fallback", mustGet(t, url+"/api/resource").Header.Get("X-RateLimit-Store"))
	var log string
	eventually(t, "the log has the cause", func() bool {
		mustGet(t, url+"/api/resource")
		log = docker(t, "logs", id)
		return strings.Contains(log, "A shard does not answer")
	})
	assert.Contains(t, log, "DENIED Redis is running in protected mode")
	assert.Contains(t, log, `"kind":"protected"`)
	assert.Contains(t, log, `"advice":"Redis answers its own host only`)
	assert.NotContains(t, log, "broken pipe")
}

// The addresses of Redis and of the upstream are of IPv6.
func TestContainer_speaksIPv6(t *testing.T) {
	net := network(t, "--ipv6", "--subnet", "fd42:7e10:c17e::/64")
	redis := start(t, "--network", net, redisImage)
	ipv6 := func(id string) string {
		return "[" + inspect(t, id, "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}") + "]"
	}
	limited, _ := startVelocity(t, "--network", net, "-e", "REDIS_ADDR="+ipv6(redis)+":6379")
	_, url := startVelocity(t, "--network", net, "-e", "VELOCITY_UPSTREAM_URL=http://"+ipv6(limited)+":3000")
	resp := mustGet(t, url+"/api/resource")
	assert.Equal(t, http.StatusOK, resp.Status)
	assert.Empty(t, resp.Header.Get("X-RateLimit-Store"))
	assert.Contains(t, docker(t, "exec", redis, "redis-cli", "--scan"), "velocity:{")
}
