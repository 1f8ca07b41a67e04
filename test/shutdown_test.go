package test

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
	"github.com/velocity-limiter/velocity/test/measure"
)

func TestShutdown_underLoadEveryRequestIsAnswered(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			p := harness.Start(t, harness.Settings{"VELOCITY_HTTP_DRAIN_PERIOD": "1s"})
			var (
				wg       sync.WaitGroup
				stop     atomic.Bool // as a load balancer stops sending once the service drains
				answered atomic.Int64
				lost     atomic.Int64
			)
			t.Cleanup(func() { stop.Store(true) })
			for range 16 {
				wg.Go(func() {
					for !stop.Load() {
						a, err := p.Do(http.MethodGet, p.URL+"/api/resource", "")
						if err != nil || a.Status != http.StatusOK && a.Status != http.StatusTooManyRequests {
							lost.Add(1)
							continue
						}
						answered.Add(1)
					}
				})
			}
			require.Eventually(t, func() bool { return answered.Load() > 500 }, harness.Timeout, harness.Interval)
			p.Signal(sig)
			require.Eventually(t, func() bool {
				a, err := p.Do(http.MethodGet, p.Admin+"/readyz", "")
				return err == nil && a.Status == http.StatusServiceUnavailable
			}, harness.Timeout, time.Millisecond, "/readyz does not report that the service drains")
			atDrain := answered.Load()
			assert.Eventually(t, func() bool { return answered.Load() > atDrain }, harness.Timeout, time.Millisecond,
				"it answers while it drains")
			stop.Store(true)
			wg.Wait()

			assert.Equal(t, 0, p.Wait(), "exit code")
			measure.Keep(t, "shutdown-"+sig.String(), map[string]int64{"Answered": answered.Load(), "Lost": lost.Load()})
			assert.Zero(t, lost.Load())
			assert.Len(t, p.LogLines("Stopped"), 1)
			decisions := len(p.LogLines("Decision: ALLOWED")) + len(p.LogLines("Decision: BLOCKED (429)"))
			assert.EqualValues(t, answered.Load(), decisions, "the log is complete")
		})
	}
}

// hang starts a service with one request in flight, which waits for a stopped Redis.
func hang(t *testing.T) (p *harness.Process, server *redistest.Server, answers chan harness.Response) {
	t.Helper()
	server = redistest.Start(t)
	p = harness.Start(t, harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_TAKE_TIMEOUT": "8s", "VELOCITY_ON_STORE_FAILURE": "closed",
	})
	require.Equal(t, http.StatusOK, p.Resource().Status)
	server.Pause()
	answers = make(chan harness.Response, 1)
	go func() {
		a, err := p.Do(http.MethodGet, p.URL+"/api/resource", "")
		if err != nil {
			a.Body = err.Error()
		}
		answers <- a
	}()
	require.Never(t, func() bool { return len(answers) > 0 }, 200*time.Millisecond, harness.Interval, "the request does not hang")
	return p, server, answers
}

func TestShutdown_requestsInFlightFinish(t *testing.T) {
	p, server, answers := hang(t)
	p.Signal(syscall.SIGTERM)
	require.Eventually(t, func() bool {
		_, err := p.Do(http.MethodGet, p.URL+"/no/such/route", "") // needs no Redis
		return err != nil
	}, harness.Timeout, harness.Interval, "the service still accepts")
	server.Resume()
	a := <-answers
	assert.Equal(t, http.StatusOK, a.Status, a.Body)
	assert.Equal(t, 0, p.Wait())
}

func TestShutdown_aSecondSignalEndsAtOnce(t *testing.T) {
	p, _, _ := hang(t)
	p.Signal(syscall.SIGTERM)
	require.Eventually(t, func() bool { return len(p.LogLines("Stopping: requests in flight are finished")) > 0 },
		harness.Timeout, harness.Interval)
	began := time.Now()
	p.Signal(syscall.SIGTERM)
	assert.Equal(t, -1, p.Wait(), "ended by the signal")
	assert.Less(t, time.Since(began), 3*time.Second)
}

// Everything that a stop waits for is stuck: an upstream that never answers, with a permit and a cost, a Redis that is paused, and a collector
// of traces.
func TestShutdown_isBoundedWhateverIsStuck(t *testing.T) {
	stuck, err := net.Listen("tcp", "127.0.0.1:0") // it accepts, and says nothing
	require.NoError(t, err)
	defer func() { _ = stuck.Close() }()
	server := redistest.Start(t)
	p := harness.Start(t, harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_UPSTREAM_URL": "http://" + stuck.Addr().String(), "VELOCITY_UPSTREAM_TIMEOUT": "1m",
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + stuck.Addr().String(), "VELOCITY_HTTP_DRAIN_PERIOD": "3s",
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
policies:
  - name: default
    cost: { estimate: 10, actual: usage }
    limits: [ { name: parallel, concurrent: 2, lease: 60s }, { name: tokens, rate: 1/h, capacity: 100 } ]
`),
	})
	for range 2 {
		go func() { _, _ = p.Do(http.MethodGet, p.URL+"/", "") }() // it is cut off
	}
	require.Eventually(t, func() bool { return p.Metric("velocity_permits_held", `policy="default"`) == 2 }, harness.Timeout, harness.Interval)
	server.Pause()
	began := time.Now()
	p.Signal(syscall.SIGTERM)
	require.Eventually(t, p.HasExited, 2*harness.Timeout, harness.Interval)
	took := time.Since(began)
	assert.Greater(t, took, 3*time.Second+6*time.Second-100*time.Millisecond, "the drain period, and the time for requests in flight")
	assert.Less(t, took, 3*time.Second+8*time.Second+500*time.Millisecond, "as docs/operating.md says, and a margin for this machine")
	assert.Len(t, p.LogLines("Stopping: requests in flight are finished"), 1, "what was logged is written")
}
