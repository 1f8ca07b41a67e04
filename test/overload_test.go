//go:build faults

package test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
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

// slowServer starts a real Redis whose script takes perRun, one run after the other. Its rate is known, and far below what
// the machine can request.
func slowServer(t *testing.T, perRun time.Duration) (addr string, server *redistest.Server) {
	t.Helper()
	server = redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	var (
		mu   sync.Mutex
		free time.Time // when the runs before it have ended
	)
	proxy.TamperWithEvery(1, func(answer []byte) ([]byte, bool) {
		mu.Lock()
		if now := time.Now(); free.Before(now) {
			free = now
		}
		free = free.Add(perRun)
		until := free
		mu.Unlock()
		time.Sleep(time.Until(until))
		return answer, true
	})
	return proxy.Addr, server
}

// flood requests decisions about distinct keys, and counts which store decided.
type flood struct {
	p                    *harness.Process
	next                 *atomic.Int64
	redis, memory, other atomic.Int64
	mu                   sync.Mutex
	took                 []time.Duration // of the requests that Redis decided
	lasted               time.Duration
}

const floodChecks = 100 // checks in a request

// run sends requests for d. Each connection sends one every pace; without a pace, one after the other.
func (f *flood) run(t *testing.T, connections int, d, pace time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	began := time.Now()
	for i := range connections {
		due := began.Add(pace * time.Duration(i) / time.Duration(connections))
		wg.Go(func() {
			for time.Since(began) < d {
				time.Sleep(time.Until(due))
				due = due.Add(pace)
				if !f.request(t) {
					return
				}
			}
		})
	}
	wg.Wait()
	f.lasted = time.Since(began)
}

func (f *flood) request(t *testing.T) bool {
	var body strings.Builder
	body.WriteString(`{"checks":[`)
	for i := range floodChecks {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"key":"k%d"}`, f.next.Add(1))
	}
	body.WriteString(`]}`)
	began := time.Now()
	a, err := f.p.Do(http.MethodPost, f.p.URL+"/v1/checks", body.String())
	took := time.Since(began)
	if !assert.NoError(t, err) || !assert.Equal(t, http.StatusOK, a.Status) {
		return false
	}
	byRedis := int64(strings.Count(a.Body, `"store":"redis"`))
	byMemory := int64(strings.Count(a.Body, `"store":"fallback"`))
	f.redis.Add(byRedis)
	f.memory.Add(byMemory)
	f.other.Add(floodChecks - byRedis - byMemory)
	if byRedis == floodChecks {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.took = append(f.took, took)
	}
	return true
}

func (f *flood) decisions() int64 { return f.redis.Load() + f.memory.Load() + f.other.Load() }

// rate returns n per second of the run.
func (f *flood) rate(n int64) float64 { return float64(n) / f.lasted.Seconds() }

// pin binds all threads of a process to cores.
func pin(t *testing.T, pid int, cores string) {
	t.Helper()
	out, err := exec.Command("taskset", "-a", "-c", "-p", cores, strconv.Itoa(pid)).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// overloadReport holds the figures of the test.
type overloadReport struct {
	Load    float64 // decisions requested, divided by those that the store can take
	Goodput float64 // decisions by Redis, divided by those without the flood
	P99     time.Duration
	Open    int // decisions of the failure policy open
	Memory  int64
}

// Under a flood of new keys, ten times what the store can decide, no request passes unlimited, and the store decides
// nearly as many as without it. The others are decided by buckets in the memory of this process.
func TestOverload_aFloodOfNewKeysIsStillLimited(t *testing.T) {
	const few, many, times = 4, 200, 10 // connections: few keep the store busy, many suffice while it answers slowly
	budget, perRun, each := 4*time.Second, 100*time.Millisecond, time.Second
	if measure.Exact() {
		// Twice the default, since this process is also the server: a delay of the generator must not look like a failure of
		// the server.
		budget, perRun, each = 100*time.Millisecond, 5*time.Millisecond, 10*time.Second
	}
	addr, server := slowServer(t, perRun)
	p := harness.Start(t, harness.Settings{
		"REDIS_ADDR": addr, "VELOCITY_ON_STORE_FAILURE": "open", "VELOCITY_LOG_DECISIONS": "none", "VELOCITY_RATE": "1/s",
		"VELOCITY_TAKE_TIMEOUT": budget.String(),
	})
	p.Client = loadClient(t)
	if measure.Exact() {
		pin(t, os.Getpid(), "1")
		t.Cleanup(func() { pin(t, os.Getpid(), "0-1") })
		pin(t, p.Cmd.Process.Pid, "0")
		pin(t, server.PID(), "0")
	}
	next := &atomic.Int64{}
	connects, alone, over := &flood{p: p, next: next}, &flood{p: p, next: next}, &flood{p: p, next: next}
	connects.run(t, few, each/2, 0)
	alone.run(t, few, each, 0)
	pace := time.Duration(float64(time.Second) * many * floodChecks / (times * alone.rate(alone.redis.Load())))
	over.run(t, many, each, pace)

	r := overloadReport{
		Load:    over.rate(over.decisions()) / alone.rate(alone.redis.Load()),
		Goodput: over.rate(over.redis.Load()) / alone.rate(alone.redis.Load()),
		P99:     measure.Quantile(over.took, 0.99),
		Open:    int(p.Metric("velocity_store_failures_total", `mode="open"`)),
		Memory:  over.memory.Load(),
	}
	overloaded := int64(p.Metric("velocity_shard_overloaded_groups_total"))
	t.Logf("alone %.0f decisions a second by Redis; %+v, %d overloaded", alone.rate(alone.redis.Load()), r, overloaded)
	measure.Keep(t, "overload", r)
	assert.Zero(t, alone.memory.Load(), "the store was overloaded before the flood")
	assert.Zero(t, over.other.Load(), "neither Redis nor the memory decided")
	assert.Equal(t, connects.memory.Load()+alone.memory.Load()+over.memory.Load(), overloaded, "memory decided only because the queue was full")
	assert.Positive(t, over.redis.Load())
	assert.Positive(t, over.memory.Load(), "the store was not overloaded")
	assert.Zero(t, r.Open, "requests passed unlimited")
	if measure.Exact() {
		assert.GreaterOrEqual(t, r.Load, 9.0)
		assert.GreaterOrEqual(t, r.Goodput, 0.8)
		assert.LessOrEqual(t, r.P99, 100*time.Millisecond)
	}
}

// loadClient returns a client whose exchanges are not recorded, which would take longer than the requests.
func loadClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: harness.Timeout}
}
