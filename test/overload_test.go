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
	"github.com/velocity-limiter/velocity/test/measure"
)

// slowServer makes a real Redis take so long for each run of the script, one after the other, so that what it can do
// is known, and is far less than the machine can ask of it.
func slowServer(t *testing.T, perRun time.Duration) (addr string, server *redistest.Server) {
	t.Helper()
	server = redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	var (
		mu   sync.Mutex
		free time.Time // when the runs before are done
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

// flood asks for distinct keys over so many connections, and counts who decided.
type flood struct {
	p                      *process
	next                   *atomic.Int64
	redis, memory, strange atomic.Int64
	mu                     sync.Mutex
	took                   []time.Duration // of the calls that Redis decided
	lasted                 time.Duration
}

const floodChecks = 100 // in a call

// run asks until the time is up. A pace is how long after a call each connection begins the next, 0: at once.
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
				if !f.call(t) {
					return
				}
			}
		})
	}
	wg.Wait()
	f.lasted = time.Since(began)
}

func (f *flood) call(t *testing.T) bool {
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
	a, err := f.p.ask(http.MethodPost, f.p.url+"/v1/checks", body.String())
	took := time.Since(began)
	if !assert.NoError(t, err) || !assert.Equal(t, http.StatusOK, a.status) {
		return false
	}
	byRedis := int64(strings.Count(a.body, `"store":"redis"`))
	byMemory := int64(strings.Count(a.body, `"store":"fallback"`))
	f.redis.Add(byRedis)
	f.memory.Add(byMemory)
	f.strange.Add(floodChecks - byRedis - byMemory)
	if byRedis == floodChecks {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.took = append(f.took, took)
	}
	return true
}

func (f *flood) decisions() int64 { return f.redis.Load() + f.memory.Load() + f.strange.Load() }

// a second's worth.
func (f *flood) rate(n int64) float64 { return float64(n) / f.lasted.Seconds() }

// pin keeps a process to one core, with all its threads.
func pin(t *testing.T, pid int, cores string) {
	t.Helper()
	out, err := exec.Command("taskset", "-a", "-c", "-p", cores, strconv.Itoa(pid)).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// overloadReport is what a flood ends with.
type overloadReport struct {
	Load    float64 // the decisions asked for, of those that the store can do
	Goodput float64 // the decisions by Redis, of those without the flood
	P99     time.Duration
	Open    int // decisions by fail-open
	Memory  int64
}

// A flood of keys that nobody has seen, ten times of what the store can do, must not open the gate, nor keep the store
// from deciding as much as it can: what does not fit is decided by this process's own memory.
func TestOverload_aFloodOfKeysOpensNoGate(t *testing.T) {
	const few, many, times = 4, 200, 10 // connections: few keep the store busy, many have room for its slowest answers
	budget, perRun, each := 4*time.Second, 100*time.Millisecond, time.Second
	if measure.Exact() {
		// Twice the default, of which a half may be waited: a hiccup of the generator, in which the server is, must not
		// pass for a failure of the server.
		budget, perRun, each = 100*time.Millisecond, 5*time.Millisecond, 10*time.Second
	}
	addr, server := slowServer(t, perRun)
	p := start(t, settings{
		"REDIS_ADDR": addr, "VELOCITY_ON_STORE_FAILURE": "open", "VELOCITY_LOG_DECISIONS": "none", "VELOCITY_RATE": "1/s",
		"VELOCITY_TAKE_TIMEOUT": budget.String(),
	})
	p.client = loadClient(t)
	if measure.Exact() {
		pin(t, os.Getpid(), "1")
		t.Cleanup(func() { pin(t, os.Getpid(), "0-1") })
		pin(t, p.cmd.Process.Pid, "0")
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
		Open:    int(p.metric("velocity_store_failures_total", `mode="open"`)),
		Memory:  over.memory.Load(),
	}
	overloaded := int64(p.metric("velocity_shard_overloaded_groups_total"))
	t.Logf("alone %.0f decisions a second by Redis; %+v, %d overloaded", alone.rate(alone.redis.Load()), r, overloaded)
	measure.Keep(t, "overload", r)
	assert.Zero(t, alone.memory.Load(), "it was overloaded from the beginning")
	assert.Zero(t, over.strange.Load(), "neither Redis nor the memory decided")
	assert.Equal(t, connects.memory.Load()+alone.memory.Load()+over.memory.Load(), overloaded, "the queue was full, and nothing else was wrong")
	assert.Positive(t, over.redis.Load())
	assert.Positive(t, over.memory.Load(), "the store was not overloaded")
	assert.Zero(t, r.Open, "the gate was open")
	if measure.Exact() {
		assert.GreaterOrEqual(t, r.Load, 9.0)
		assert.GreaterOrEqual(t, r.Goodput, 0.8)
		assert.LessOrEqual(t, r.P99, 100*time.Millisecond)
	}
}

// loadClient holds no answer against the contract: that would take longer than the answer.
func loadClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}
