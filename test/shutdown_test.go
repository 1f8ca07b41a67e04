package test

import (
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/measure"
)

func TestShutdown_underLoadEveryRequestIsAnswered(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			p := start(t, settings{"VELOCITY_HTTP_DRAIN_PERIOD": "1s"})
			var (
				wg       sync.WaitGroup
				leave    atomic.Bool // set as a load balancer would, once the service says that it is draining
				answered atomic.Int64
				lost     atomic.Int64
			)
			t.Cleanup(func() { leave.Store(true) })
			for range 16 {
				wg.Go(func() {
					for !leave.Load() {
						a, err := p.ask(http.MethodGet, p.url+"/api/resource", "")
						if err != nil || a.status != http.StatusOK && a.status != http.StatusTooManyRequests {
							lost.Add(1)
							continue
						}
						answered.Add(1)
					}
				})
			}
			require.Eventually(t, func() bool { return answered.Load() > 500 }, patience, tick)
			p.signal(sig)
			require.Eventually(t, func() bool {
				a, err := p.ask(http.MethodGet, p.admin+"/readyz", "")
				return err == nil && a.status == http.StatusServiceUnavailable
			}, patience, time.Millisecond, "readiness never said that the service was draining")
			atDrain := answered.Load()
			assert.Eventually(t, func() bool { return answered.Load() > atDrain }, patience, time.Millisecond,
				"while it drains it answers")
			leave.Store(true)
			wg.Wait()

			assert.Equal(t, 0, p.wait(), "exit code")
			measure.Keep(t, "shutdown-"+sig.String(), map[string]int64{"Answered": answered.Load(), "Lost": lost.Load()})
			assert.Zero(t, lost.Load())
			assert.Len(t, p.logged("Stopped"), 1)
			decisions := len(p.logged("Decision: ALLOWED")) + len(p.logged("Decision: BLOCKED (429)"))
			assert.EqualValues(t, answered.Load(), decisions, "the log is complete")
		})
	}
}

// hang starts a service with one request that waits for a stopped Redis.
func hang(t *testing.T) (p *process, server *redistest.Server, answers chan answer) {
	t.Helper()
	server = redistest.Start(t)
	p = start(t, settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_TAKE_TIMEOUT": "8s", "VELOCITY_ON_STORE_FAILURE": "closed",
	})
	require.Equal(t, http.StatusOK, p.resource().status)
	server.Pause()
	answers = make(chan answer, 1)
	go func() {
		a, err := p.ask(http.MethodGet, p.url+"/api/resource", "")
		if err != nil {
			a.body = err.Error()
		}
		answers <- a
	}()
	require.Never(t, func() bool { return len(answers) > 0 }, 200*time.Millisecond, tick, "the request does not hang")
	return p, server, answers
}

func TestShutdown_whatIsInFlightFinishes(t *testing.T) {
	p, server, answers := hang(t)
	p.signal(syscall.SIGTERM)
	require.Eventually(t, func() bool {
		_, err := p.ask(http.MethodGet, p.url+"/no/such/route", "") // needs no Redis
		return err != nil
	}, patience, tick, "the service still accepts")
	server.Resume()
	a := <-answers
	assert.Equal(t, http.StatusOK, a.status, a.body)
	assert.Equal(t, 0, p.wait())
}

func TestShutdown_aSecondSignalEndsAtOnce(t *testing.T) {
	p, _, _ := hang(t)
	p.signal(syscall.SIGTERM)
	require.Eventually(t, func() bool { return len(p.logged("Stopping: requests in flight are finished")) > 0 },
		patience, tick)
	began := time.Now()
	p.signal(syscall.SIGTERM)
	assert.Equal(t, -1, p.wait(), "ended by the signal")
	assert.Less(t, time.Since(began), 3*time.Second)
}
