//go:build faults

package test

import (
	"fmt"
	"net/http"
	"os"
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
	"github.com/velocity-limiter/velocity/test/harness"
	"github.com/velocity-limiter/velocity/test/measure"
)

// A service that starts without Redis answers at once.
func TestStart_theFirstAnswerDoesNotWaitForRedis(t *testing.T) {
	frozen := redistest.Start(t)
	frozen.Pause()
	took := map[string]time.Duration{}
	for name, addr := range map[string]string{
		"refused": redistest.Refusing(t),
		"silent":  frozen.Addr,
	} {
		began := time.Now()
		p := harness.Start(t, harness.Settings{"REDIS_ADDR": addr})
		a := p.Resource()
		took[name] = time.Since(began)
		assert.Equal(t, http.StatusOK, a.Status)
		assert.Equal(t, "fallback", a.Header.Get("X-RateLimit-Store"))
	}
	t.Logf("the first answer after %v", took)
	measure.Keep(t, "start", map[string]any{"First": max(took["refused"], took["silent"])})
	if measure.Exact() {
		assert.LessOrEqual(t, max(took["refused"], took["silent"]), 2*time.Second)
	}
}

// policyFile writes a policy with two limits of this capacity. An answer that names two capacities mixes two files.
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

// While policies are reloaded under load no request is lost, and each is decided by one version of the file.
func TestReload_underLoadNoRequestSeesTwoSets(t *testing.T) {
	reloads := 10
	if measure.Exact() {
		reloads = 100
	}
	path := filepath.Join(t.TempDir(), "policies.yaml")
	capacities := [2]int{1000, 2000}
	policyFile(t, path, capacities[0])
	p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": path, "VELOCITY_RATE": "", "VELOCITY_LOG_DECISIONS": "none"})
	var (
		wg                          sync.WaitGroup
		stop                        atomic.Bool
		answered, lost, mixed, seen atomic.Int64
	)
	t.Cleanup(func() { stop.Store(true) })
	for w := range 8 {
		wg.Go(func() {
			for !stop.Load() {
				a, err := p.Do(http.MethodGet, p.URL+"/api/resource", "", fmt.Sprintf("X-Client-ID: client-%d", w))
				if err != nil || a.Status != http.StatusOK {
					lost.Add(1)
					continue
				}
				answered.Add(1)
				header := a.Header.Get("RateLimit-Policy")
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
			a, err := p.Do(http.MethodGet, p.URL+"/api/resource", "", "X-Client-ID: watcher")
			return err == nil && a.Header.Get("X-RateLimit-Limit") == strconv.Itoa(want)
		}, harness.Timeout, time.Millisecond, "reload %d", i)
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d reloads, %d answered, %d lost, %d by two versions", reloads, answered.Load(), lost.Load(), mixed.Load())
	measure.Keep(t, "reload", map[string]int64{"Reloads": int64(reloads), "Answered": answered.Load(), "Lost": lost.Load(), "Mixed": mixed.Load()})
	assert.Zero(t, lost.Load())
	assert.Zero(t, mixed.Load())
	assert.Positive(t, seen.Load())
}
