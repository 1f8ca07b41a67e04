package test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// onePolicy returns a policy file with one bucket for all requests.
func onePolicy(capacity int) string {
	return fmt.Sprintf("policies: [ { name: only, match: { path: \"/**\" }, key: global, limits: [ { rate: 2/h, capacity: %d } ] } ]\n", capacity)
}

// replace replaces the policy file by rename.
func (p *protected) replace(policies string) {
	p.T.Helper()
	next := filepath.Join(filepath.Dir(p.file), "next")
	require.NoError(p.T, os.WriteFile(next, []byte(policies), 0o600))
	require.NoError(p.T, os.Rename(next, p.file))
}

func (p *protected) reload() harness.Response {
	p.T.Helper()
	return p.MustDo(http.MethodPost, p.Admin+"/v1/reload", "")
}

// limit returns the limit of the policy in force.
func (p *protected) limit() string {
	p.T.Helper()
	a := p.check(`{"policy": "only", "cost": 0}`)
	require.Equal(p.T, http.StatusOK, a.Status, a.Body)
	return fmt.Sprint(a.JSON(p.T)["limit"])
}

func TestReload_liveBucketsKeepTheirTokens(t *testing.T) {
	p := protect(t, onePolicy(10))
	for range 4 {
		require.Equal(t, 200, p.get("/").Status)
	}
	remaining := func() string { return p.get("/").Header.Get("X-RateLimit-Remaining") }

	p.replace(onePolicy(20)) // the service sees it without a request
	require.Eventually(t, func() bool { return p.limit() == "20" }, harness.Timeout, harness.Interval)
	assert.Equal(t, "5", remaining(), "six were left: a larger bucket keeps its tokens")

	p.replace(onePolicy(3))
	p.Signal(syscall.SIGHUP)
	require.Eventually(t, func() bool { return p.limit() == "3" }, harness.Timeout, harness.Interval)
	assert.Equal(t, "2", remaining(), "a smaller bucket is capped")

	p.replace("policies: [ { name: only, key: global, limits: [ { rate: 1/2h, capacity: 9 } ] } ]\n")
	a := p.reload()
	require.Equal(t, http.StatusOK, a.Status, a.Body)
	assert.InDelta(t, 1, a.JSON(t)["policies"], 0)
	assert.Equal(t, "1", remaining(), "two were left, and another rate keeps them")

	for range 3 { // denied, and in the denial cache
		p.get("/")
	}
	require.Equal(t, http.StatusTooManyRequests, p.get("/").Status)
	p.replace("policies: [ { name: other, key: global, limits: [ { rate: 1/h, capacity: 9 } ] } ]\n")
	require.Equal(t, http.StatusOK, p.reload().Status)
	assert.Equal(t, "8", remaining(), "a cached denial of other policies does not count")
	list := p.MustDo(http.MethodGet, p.Admin+"/v1/policies", "")
	assert.Contains(t, list.Body, `"name":"other"`)
	p.Stop()
}

func TestReload_withoutAFileNamesTheSetting(t *testing.T) {
	p := harness.Start(t, harness.Settings{})
	a := p.MustDo(http.MethodPost, p.Admin+"/v1/reload", "")
	require.Equal(t, http.StatusUnprocessableEntity, a.Status)
	assert.Equal(t, []any{"neither VELOCITY_POLICY_FILE nor VELOCITY_ENVOY_CONFIG is set: there is no file to load"}, a.JSON(t)["errors"])
	p.Stop()
}

func TestReload_brokenFileChangesNothing(t *testing.T) {
	p := protect(t, onePolicy(10))
	p.replace("policies:\n  - name: only\n    limits: [ { rate: 5/s } ]\n  - name: B\n    limits: [ { rate: 5/s, capacity: 1 } ]\n")
	a := p.reload()
	require.Equal(t, http.StatusUnprocessableEntity, a.Status)
	assert.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
	wrong := []any{
		`3:15: policies[0].limits[0].capacity: is missing: a limit has either a rate and a capacity, or a quota, or concurrent`,
		`4:11: policies[1].name: "B": must match [a-z0-9][a-z0-9_-]{0,62}`,
	}
	assert.Equal(t, wrong, a.JSON(t)["errors"])
	assert.Equal(t, "10", p.limit())
	p.replace(onePolicy(11))
	require.Equal(t, http.StatusOK, p.reload().Status)
	assert.Equal(t, "11", p.limit())
	counted := p.MustDo(http.MethodGet, p.Admin+"/metrics", "").Body
	assert.Regexp(t, `velocity_policy_reloads_total\{result="failure"\} [1-9]`, counted)
	assert.Regexp(t, `velocity_policy_reloads_total\{result="success"\} [1-9]`, counted)
	p.Stop()
	refused := p.LogLines("Policies are not reloaded: the earlier policies stay in force")
	require.NotEmpty(t, refused)
	assert.Equal(t, wrong, refused[0]["errors"], "every error is logged")
}

var reloads = flag.Int("reloads", 250, "reloads under load; make test-long does 1000")

// While two policy files replace each other, each request is decided by one of them.
func TestReload_manyUnderLoadLoseNothing(t *testing.T) {
	p := protect(t, onePolicy(800_000))
	files := func() int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Cmd.Process.Pid))
		require.NoError(t, err)
		return len(list)
	}
	var done atomic.Bool
	var asked, wrong atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for !done.Load() {
				a, err := p.Do(http.MethodGet, p.URL+"/", "")
				limit := a.Header.Get("X-RateLimit-Limit")
				if asked.Add(1); err != nil || a.Status != 200 || limit != "800000" && limit != "1600000" {
					wrong.Add(1)
				}
			}
		})
	}
	require.Eventually(t, func() bool { return asked.Load() > 500 }, harness.Timeout, harness.Interval)
	before := files() // after the pools have grown
	for i := range *reloads {
		p.replace(onePolicy(800_000 * (1 + i%2)))
		if a := p.reload(); !assert.Equal(t, http.StatusOK, a.Status, a.Body) {
			break
		}
	}
	done.Store(true)
	clients.Wait()
	assert.Zero(t, wrong.Load(), "of %d requests", asked.Load())
	assert.Greater(t, asked.Load(), int64(100))
	assert.LessOrEqual(t, files(), before+8, "files that stay open")
	p.Stop()
	assert.GreaterOrEqual(t, len(p.LogLines("Policies are reloaded")), *reloads)
}
