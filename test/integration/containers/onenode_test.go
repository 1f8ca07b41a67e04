//go:build containers

package containers

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// docker-compose.yml as it is: one node and one Redis.
func TestOneNode(t *testing.T) {
	p := newProject(t, []node{{service: "app", variable: "VELOCITY_PUBLISH"}}, "docker-compose.yml")
	for _, test := range []struct {
		name string
		run  func(*testing.T, *project, node)
	}{
		{"started before Redis has a name", startedBeforeRedis}, // starts both: it is the first
		{"session of README", sessionOfREADME},
		{"health", health},
		{"no rights", noRights},
		{"Redis at another address", redisAtAnotherAddress},
		{"SIGTERM loses no answer", sigterm},
		{"log rotation", logRotation},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, p, p.nodes[0]) })
		if t.Failed() {
			return
		}
	}
}

func startedBeforeRedis(t *testing.T, p *project, n node) {
	p.compose(t, "up", "--build", "-d", "--no-deps", n.service)
	eventually(t, "an answer", func() bool {
		_, err := p.check(n, "early")
		return err == nil
	})
	d := p.mustCheck(t, n, "early")
	assert.True(t, d.Allowed && d.byPolicy(), "%+v", d)
	p.compose(t, "up", "-d")
	p.answersByRedis(t, n, "early")
}

func sessionOfREADME(t *testing.T, p *project, n node) {
	var statuses []int
	var last harness.Response
	for range 20 {
		resp, err := p.resource(n)
		require.NoError(t, err)
		statuses, last = append(statuses, resp.Status), resp
		assert.Empty(t, resp.Header.Get("X-RateLimit-Store"), "Redis decides")
	}
	for i := range 10 {
		assert.Equal(t, http.StatusOK, statuses[i], "%v", statuses)
	}
	assert.Contains(t, statuses, http.StatusTooManyRequests)
	assert.Equal(t, "10", last.Header.Get("X-RateLimit-Limit"))

	unauthorized, err := http.Post("http://"+n.addr+"/v1/check", "application/json", strings.NewReader(`{"key": "alice"}`))
	require.NoError(t, err)
	_ = unauthorized.Body.Close()
	assert.Equal(t, http.StatusUnauthorized, unauthorized.StatusCode, "the token of the environment is asked for")
	assert.True(t, p.mustCheck(t, n, "alice").Allowed)
}

func health(t *testing.T, p *project, n node) {
	for _, service := range []string{n.service, "redis"} {
		eventually(t, service+" is healthy", func() bool {
			return inspect(t, p.id(t, service), "{{.State.Health.Status}}") == "healthy"
		})
	}
	docker(t, "exec", p.id(t, n.service), "/velocity", "healthcheck")
}

// The engine says what each container may do, and the kernel says it of the process in it.
func noRights(t *testing.T, p *project, _ node) {
	for service, uid := range map[string]string{"app": "65532", "redis": ""} {
		id := p.id(t, service)
		assert.Equal(t, "true [ALL] [] [no-new-privileges:true] false",
			inspect(t, id, "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}} {{.HostConfig.SecurityOpt}} {{.HostConfig.Privileged}}"))
		kernel := process(t, id)
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			assert.Contains(t, kernel, "\n"+set+":\t0000000000000000\n", service)
		}
		assert.Contains(t, kernel, "\nNoNewPrivs:\t1\n", service)
		assert.NotContains(t, kernel, "\nUid:\t0\t", service)
		assert.Contains(t, kernel, "\nUid:\t"+uid, service)
		assert.Regexp(t, `\n\d+ \d+ \S+ / / ro,`, kernel, "%s: the root folder", service)
	}
}

// process returns what the kernel says of a container's first process: its status and its mounts. A container of Redis' image, which has
// a shell, reads them.
func process(t *testing.T, id string) string {
	t.Helper()
	return docker(t, "run", "--rm", "--network", "none", "--user", "0", "--pid", "container:"+id, "--cap-add", "SYS_PTRACE", redisImage,
		"cat", "/proc/1/status", "/proc/1/mountinfo")
}

func redisAtAnotherAddress(t *testing.T, p *project, n node) {
	before := address(t, p.id(t, "redis"))
	p.compose(t, "rm", "-s", "-f", "redis")
	// Another container takes the address meanwhile, where no Redis listens.
	other := docker(t, "run", "-d", "--network", p.network(), redisImage, "sleep", "600")
	t.Cleanup(func() { docker(t, "rm", "-f", other) })
	require.Equal(t, before, address(t, other))
	assert.True(t, p.mustCheck(t, n, "moving").byPolicy())
	p.compose(t, "up", "-d", "redis")
	require.NotEqual(t, before, address(t, p.id(t, "redis")))
	p.answersByRedis(t, n, "moving")
}

// Each of 32 clients has one connection, and sends on it until the node says that it closes it, as a load balancer does.
func sigterm(t *testing.T, p *project, n node) {
	var clients sync.WaitGroup
	var answered atomic.Int64
	for i := range 32 {
		clients.Go(func() {
			for {
				d, err := p.check(n, fmt.Sprint("draining-", i))
				if !assert.NoError(t, err, "a lost answer") {
					return
				}
				answered.Add(1)
				if d.closing {
					return
				}
			}
		})
	}
	eventually(t, "load", func() bool { return answered.Load() > 2000 })
	id := p.id(t, n.service)
	docker(t, "stop", id)
	clients.Wait()
	assert.Equal(t, "0 false", inspect(t, id, "{{.State.ExitCode}} {{.State.OOMKilled}}"))
	docker(t, "start", id)
	p.client.CloseIdleConnections()
	p.answersByRedis(t, n, "after")
}

// Decisions are logged until the first lines are gone. What is left is at most what the compose file allows.
func logRotation(t *testing.T, p *project, n node) {
	id := p.id(t, n.service)
	assert.Equal(t, "json-file map[max-file:3 max-size:10m]", inspect(t, id, "{{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Config}}"))
	checks := make([]string, 1000)
	for i := range checks {
		checks[i] = fmt.Sprintf(`{"key": "logged-%d"}`, i)
	}
	body := `{"checks": [` + strings.Join(checks, ",") + `]}`
	first := docker(t, "logs", id)
	first = first[:strings.IndexByte(first, '\n')]
	var log string
	for range 10 {
		for range 40 {
			req, err := http.NewRequest(http.MethodPost, "http://"+n.addr+"/v1/checks", strings.NewReader(body))
			require.NoError(t, err)
			resp, err := harness.Send(p.client, req, "Content-Type: application/json", "Authorization: Bearer "+token)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		}
		if log = docker(t, "logs", id); !strings.Contains(log, first) {
			break
		}
	}
	assert.NotContains(t, log[:1000], first, "the first line is gone")
	assert.Less(t, len(log), 31_000_000)
}
