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
)

// onePolicy is a file of one policy, for everything.
func onePolicy(capacity int) string {
	return fmt.Sprintf("policies: [ { name: only, match: { path: \"/**\" }, key: global, limits: [ { rate: 2/h, capacity: %d } ] } ]\n", capacity)
}

// replace renames a new file into the place of the old one.
func (p *protected) replace(policies string) {
	p.t.Helper()
	next := filepath.Join(filepath.Dir(p.file), "next")
	require.NoError(p.t, os.WriteFile(next, []byte(policies), 0o600))
	require.NoError(p.t, os.Rename(next, p.file))
}

func (p *protected) reload() answer {
	p.t.Helper()
	return p.mustAsk(http.MethodPost, p.admin+"/v1/reload", "")
}

// limit is that of the policy in force.
func (p *protected) limit() string {
	p.t.Helper()
	a := p.check(`{"policy": "only", "cost": 0}`)
	require.Equal(p.t, http.StatusOK, a.status, a.body)
	return fmt.Sprint(a.json(p.t)["limit"])
}

func TestReload_liveBucketsKeepTheirTokens(t *testing.T) {
	p := protect(t, onePolicy(10))
	for range 4 {
		require.Equal(t, 200, p.get("/").status)
	}
	remaining := func() string { return p.get("/").header.Get("X-RateLimit-Remaining") }

	p.replace(onePolicy(20)) // it is noticed
	require.Eventually(t, func() bool { return p.limit() == "20" }, patience, tick)
	assert.Equal(t, "5", remaining(), "six were left: a larger bucket is not a fuller one")

	p.replace(onePolicy(3))
	p.signal(syscall.SIGHUP)
	require.Eventually(t, func() bool { return p.limit() == "3" }, patience, tick)
	assert.Equal(t, "2", remaining(), "a smaller bucket holds no more than it can")

	p.replace("policies: [ { name: only, key: global, limits: [ { rate: 1/2h, capacity: 9 } ] } ]\n")
	a := p.reload()
	require.Equal(t, http.StatusOK, a.status, a.body)
	assert.InDelta(t, 1, a.json(t)["policies"], 0)
	assert.Equal(t, "1", remaining(), "two were left, at another rate, too")

	for range 3 { // denied: the shortcut remembers it
		p.get("/")
	}
	require.Equal(t, http.StatusTooManyRequests, p.get("/").status)
	p.replace("policies: [ { name: other, key: global, limits: [ { rate: 1/h, capacity: 9 } ] } ]\n")
	require.Equal(t, http.StatusOK, p.reload().status)
	assert.Equal(t, "8", remaining(), "a denial under other policies says nothing")
	list := p.mustAsk(http.MethodGet, p.admin+"/v1/policies", "")
	assert.Contains(t, list.body, `"name":"other"`)
	p.stop()
}

func TestReload_withoutAFileNamesTheSetting(t *testing.T) {
	p := start(t, settings{})
	a := p.mustAsk(http.MethodPost, p.admin+"/v1/reload", "")
	require.Equal(t, http.StatusUnprocessableEntity, a.status)
	assert.Equal(t, []any{"VELOCITY_POLICY_FILE is not set: there is no file to load"}, a.json(t)["errors"])
	p.stop()
}

func TestReload_brokenFileChangesNothing(t *testing.T) {
	p := protect(t, onePolicy(10))
	p.replace("policies:\n  - name: only\n    limits: [ { rate: 5/s } ]\n  - name: B\n    limits: [ { rate: 5/s, capacity: 1 } ]\n")
	a := p.reload()
	require.Equal(t, http.StatusUnprocessableEntity, a.status)
	assert.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
	wrong := []any{
		`3:15: policies[0].limits[0].capacity: is missing`,
		`4:11: policies[1].name: "B": must match [a-z0-9][a-z0-9_-]{0,62}`,
	}
	assert.Equal(t, wrong, a.json(t)["errors"])
	assert.Equal(t, "10", p.limit())
	p.replace(onePolicy(11))
	require.Equal(t, http.StatusOK, p.reload().status)
	assert.Equal(t, "11", p.limit())
	counted := p.mustAsk(http.MethodGet, p.admin+"/metrics", "").body
	assert.Regexp(t, `velocity_policy_reloads_total\{result="failure"\} [1-9]`, counted)
	assert.Regexp(t, `velocity_policy_reloads_total\{result="success"\} [1-9]`, counted)
	p.stop()
	told := p.logged("Policies are not reloaded: those of before stay in force")
	require.NotEmpty(t, told)
	assert.Equal(t, wrong, told[0]["errors"], "every error is logged")
}

var reloads = flag.Int("reloads", 250, "reloads under load; 1000 for the whole test")

// Reloads between two files, while requests go on: each is answered by the one or the other.
func TestReload_manyUnderLoadLoseNothing(t *testing.T) {
	p := protect(t, onePolicy(800_000))
	files := func() int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		require.NoError(t, err)
		return len(list)
	}
	var done atomic.Bool
	var asked, wrong atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for !done.Load() {
				a, err := p.ask(http.MethodGet, p.url+"/", "")
				limit := a.header.Get("X-RateLimit-Limit")
				if asked.Add(1); err != nil || a.status != 200 || limit != "800000" && limit != "1600000" {
					wrong.Add(1)
				}
			}
		})
	}
	require.Eventually(t, func() bool { return asked.Load() > 500 }, patience, tick)
	before := files() // the pools have grown
	for i := range *reloads {
		p.replace(onePolicy(800_000 * (1 + i%2)))
		if a := p.reload(); !assert.Equal(t, http.StatusOK, a.status, a.body) {
			break
		}
	}
	done.Store(true)
	clients.Wait()
	assert.Zero(t, wrong.Load(), "of %d requests", asked.Load())
	assert.Greater(t, asked.Load(), int64(100))
	assert.LessOrEqual(t, files(), before+8, "files that stay open")
	p.stop()
	assert.GreaterOrEqual(t, len(p.logged("Policies are reloaded")), *reloads)
}
