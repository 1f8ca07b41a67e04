//go:build faults

package test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/measure"
)

// Nobody waits for Redis: a service that starts without it answers at once.
func TestStart_theFirstAnswerDoesNotWaitForRedis(t *testing.T) {
	frozen := redistest.Start(t)
	frozen.Pause()
	took := map[string]time.Duration{}
	for name, addr := range map[string]string{
		"refused": fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t)),
		"silent":  frozen.Addr,
	} {
		began := time.Now()
		p := start(t, settings{"REDIS_ADDR": addr})
		a := p.resource()
		took[name] = time.Since(began)
		assert.Equal(t, http.StatusOK, a.status)
		assert.Equal(t, "fallback", a.header.Get("X-RateLimit-Store"))
	}
	t.Logf("the first answer after %v", took)
	measure.Keep(t, "start", map[string]any{"First": max(took["refused"], took["silent"])})
	if measure.Exact() {
		assert.LessOrEqual(t, max(took["refused"], took["silent"]), 2*time.Second)
	}
}

// policyFile is a file of a policy with two limits, both of one capacity: one set never shows the other's.
func policyFile(t *testing.T, path string, capacity int) {
	t.Helper()
	text := fmt.Sprintf(`policies:
  - name: both
    match: { path: "/**" }
    key: header:X-Client-ID
    limits:
      - { name: first, rate: 1000000/s, capacity: %[1]d }
      - { name: second, rate: 1000000/s, capacity: %[1]d }
`, capacity)
	require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// Policies change under load: no request is lost, and each is decided by one set whole.
func TestReload_underLoadNoRequestSeesTwoSets(t *testing.T) {
	reloads := 10
	if measure.Exact() {
		reloads = 100
	}
	path := filepath.Join(t.TempDir(), "policies.yaml")
	capacities := [2]int{1000, 2000}
	policyFile(t, path, capacities[0])
	p := start(t, settings{"VELOCITY_POLICY_FILE": path, "VELOCITY_RATE": "", "VELOCITY_LOG_DECISIONS": "none"})
	var (
		wg                          sync.WaitGroup
		stop                        atomic.Bool
		answered, lost, mixed, seen atomic.Int64
	)
	t.Cleanup(func() { stop.Store(true) })
	for w := range 8 {
		wg.Go(func() {
			for !stop.Load() {
				a, err := p.ask(http.MethodGet, p.url+"/api/resource", "", fmt.Sprintf("X-Client-ID: client-%d", w))
				if err != nil || a.status != http.StatusOK {
					lost.Add(1)
					continue
				}
				answered.Add(1)
				header := a.header.Get("RateLimit-Policy")
				first, second := strings.Count(header, "q=1000;"), strings.Count(header, "q=2000;")
				if first+second != 2 || first*second != 0 {
					mixed.Add(1)
				}
				if second == 2 {
					seen.Add(1)
				}
			}
		})
	}
	for i := 1; i <= reloads; i++ {
		want := capacities[i%2]
		policyFile(t, path, want)
		require.Eventually(t, func() bool {
			a, err := p.ask(http.MethodGet, p.url+"/api/resource", "", "X-Client-ID: watcher")
			return err == nil && a.header.Get("X-RateLimit-Limit") == strconv.Itoa(want)
		}, patience, time.Millisecond, "reload %d", i)
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d reloads, %d answered, %d lost, %d by two sets", reloads, answered.Load(), lost.Load(), mixed.Load())
	measure.Keep(t, "reload", map[string]int64{"Reloads": int64(reloads), "Answered": answered.Load(), "Lost": lost.Load(), "Mixed": mixed.Load()})
	assert.Zero(t, lost.Load())
	assert.Zero(t, mixed.Load())
	assert.Positive(t, seen.Load())
}

// flood asks for distinct keys over so many connections at once, and counts who decided.
type flood struct {
	p               *process
	next            atomic.Int64
	redis, fallback atomic.Int64
	mu              sync.Mutex
	took            []time.Duration // of calls that Redis decided, whole
}

const floodChecks = 10 // in a call

func (f *flood) run(t *testing.T, connections int, d time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range connections {
		wg.Go(func() {
			for time.Now().Before(end) {
				first := f.next.Add(floodChecks)
				var body strings.Builder
				body.WriteString(`{"checks":[{"key":"k`)
				for i := range int64(floodChecks) {
					if i > 0 {
						body.WriteString(`"},{"key":"k`)
					}
					body.WriteString(strconv.FormatInt(first+i, 10))
				}
				body.WriteString(`"}]}`)
				began := time.Now()
				a, err := f.p.ask(http.MethodPost, f.p.url+"/v1/checks", body.String())
				took := time.Since(began)
				if !assert.NoError(t, err) || !assert.Equal(t, http.StatusOK, a.status) {
					return
				}
				byRedis := int64(strings.Count(a.body, `"store":"redis"`))
				f.redis.Add(byRedis)
				f.fallback.Add(floodChecks - byRedis)
				if byRedis == floodChecks {
					f.mu.Lock()
					f.took = append(f.took, took)
					f.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
}

// pin keeps a process to one core, with all its threads.
func pin(t *testing.T, pid int, cores string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "taskset", "-a", "-c", "-p", cores, strconv.Itoa(pid)).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// A flood of keys that nobody has seen must not open the gate, nor keep the service from deciding as much as it can.
func TestOverload_aFloodOfKeysOpensNoGate(t *testing.T) {
	const few = 16 // connections that keep it busy
	each := 500 * time.Millisecond
	if measure.Exact() {
		each = 10 * time.Second
	}
	server := redistest.Start(t)
	p := start(t, settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_ON_STORE_FAILURE": "open", "VELOCITY_LOG_DECISIONS": "none", "VELOCITY_RATE": "1/s",
	})
	if measure.Exact() {
		pin(t, os.Getpid(), "1")
		t.Cleanup(func() { pin(t, os.Getpid(), "0-1") })
		pin(t, p.cmd.Process.Pid, "0")
		pin(t, server.PID(), "0")
	}
	alone, over := &flood{p: p}, &flood{p: p}
	alone.run(t, few, each/2) // connects
	*alone = flood{p: p}
	alone.run(t, few, each)
	over.next.Store(alone.next.Load())
	over.run(t, 10*few, each)
	goodput := float64(over.redis.Load()) / float64(alone.redis.Load())
	p.stop()
	open := len(p.logged("Critical Redis Error: Falling back to Fail-Open Policy"))
	p99 := measure.Quantile(over.took, 0.99)
	t.Logf("alone %d decisions by Redis, %d by others; at ten times the load %d and %d: %.2f, p99 %v, %d times open",
		alone.redis.Load(), alone.fallback.Load(), over.redis.Load(), over.fallback.Load(), goodput, p99, open)
	measure.Keep(t, "overload", map[string]any{"Goodput": goodput, "P99": p99, "Open": open})
	assert.Positive(t, over.redis.Load())
	if measure.Exact() {
		assert.Zero(t, open)
		assert.GreaterOrEqual(t, goodput, 0.8)
		assert.LessOrEqual(t, p99, 100*time.Millisecond)
	}
}
