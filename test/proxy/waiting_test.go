package proxy

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
	"github.com/velocity-limiter/velocity/test/measure"
)

// Requests that may wait are served in the order in which they came, at the rate; at the bound the next is denied at once.
func TestWaiting_isInOrderAndBounded(t *testing.T) {
	t.Parallel()
	file := harness.WriteFile(t, "policies.yaml", `
policies:
  - name: waits
    match: { path: /waits }
    key: header:X-Client
    max_wait: 5s
    limits: [ { rate: 1/s, capacity: 1 } ]
  - name: default
    key: header:X-Client
    limits: [ { rate: 1/h, capacity: 1 } ]
`)
	var served sync.Map // by client and number, when it reached the upstream
	s := start(t, protocols[0], protocols[0].upstreamSettings(t, func(_ http.ResponseWriter, r *http.Request) {
		served.Store(r.Header.Get("X-Client")+r.URL.RawQuery, time.Now())
	}), harness.Settings{"VELOCITY_POLICY_FILE": file})
	queueFilled, inTime := false, false
	for round := 0; !queueFilled || !inTime; round++ { // a machine that stands still for a second needs another round
		require.Less(t, round, 5, "denied at the bound: %t, served in order and in time: %t", queueFilled, inTime)
		filled, on := s.waitInTurn(t, &served, fmt.Sprint("client", round))
		queueFilled, inTime = queueFilled || filled, inTime || on
	}
	for _, want := range []int{http.StatusOK, http.StatusTooManyRequests} { // nothing waits without max_wait
		res, err := s.ask(t.Context(), s.client, "a", "/")
		require.NoError(t, err)
		assert.Equal(t, want, res.StatusCode)
	}
}

// waitInTurn fills a client's queue of waiting requests, and requires that all are served, none too early. filled says that one
// more request was denied at once; inTime that each was served after the one before, within two turns of its own.
func (s *server) waitInTurn(t *testing.T, served *sync.Map, client string) (filled, inTime bool) {
	t.Helper()
	const waits, turn = 5, time.Second
	var all sync.WaitGroup
	earlier := s.Metric("velocity_decisions_total", `policy="waits"`)
	began := time.Now()
	for i := range waits + 1 {
		conn := s.dial(t)
		_, err := fmt.Fprintf(conn, "GET /waits?%d HTTP/1.1\r\nHost: x\r\nX-Client: %s\r\n\r\n", i, client)
		require.NoError(t, err)
		all.Go(func() {
			if res, err := http.ReadResponse(bufio.NewReader(conn), nil); assert.NoError(t, err) {
				assert.Equal(t, http.StatusOK, res.StatusCode, i)
			}
		})
		require.Eventually(t, func() bool { // it is decided before the next
			return s.Metric("velocity_decisions_total", `policy="waits"`) > earlier+float64(i)
		}, harness.Timeout, time.Millisecond)
	}
	res, err := s.ask(t.Context(), s.client, client, "/waits?denied")
	require.NoError(t, err)
	if filled = res.StatusCode == http.StatusTooManyRequests; filled {
		assert.Equal(t, "1", res.Header.Get("Retry-After"))
	}
	all.Wait()
	inTime = true
	last := time.Duration(-1)
	for i := range waits + 1 {
		at, ok := served.Load(client + fmt.Sprint(i))
		require.True(t, ok, i)
		after := at.(time.Time).Sub(began)
		assert.GreaterOrEqual(t, after, time.Duration(i)*turn, "request %d", i)
		inTime = inTime && last < after && after < time.Duration(i+2)*turn
		last = after
	}
	return filled, inTime
}

// passed are the requests of one client that have passed, in that order.
type passed struct {
	mu  sync.Mutex
	at  []time.Time
	ids []string // empty without a service

	timers []time.Duration // how late timers of this process were meanwhile
}

func (p *passed) add(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.ids = append(p.at, time.Now()), append(p.ids, id)
}

// turn is the time between two requests at the rate of the tests of spacing.
const turn = 20 * time.Millisecond

// sendSpaced has users of one client send one request after the other. All must pass, and never more than the limit allows.
func (p *passed) sendSpaced(t *testing.T, send func() error) {
	t.Helper()
	const users = 20
	each := 3
	if measure.Exact() {
		each = 25
	}
	var all, timers sync.WaitGroup
	began := time.Now()
	for range users {
		all.Go(func() {
			for range each {
				assert.NoError(t, send())
			}
		})
	}
	over := make(chan struct{})
	timers.Go(func() { p.timers = lateTimers(over) })
	all.Wait()
	close(over)
	timers.Wait()
	require.Len(t, p.at, users*each)
	for i, at := range p.at {
		require.GreaterOrEqual(t, at.Sub(began), time.Duration(i)*turn, "%d requests passed", i+1)
	}
}

// lateTimers returns how late timers of one turn are, until over is closed. On an idle machine that is less than 3 ms.
func lateTimers(over <-chan struct{}) (late []time.Duration) {
	for {
		began := time.Now()
		select {
		case <-over:
			return late
		case <-time.After(turn):
			late = append(late, time.Since(began)-turn)
		}
	}
}

// report logs how far the spacing is from the rate. The exact times are checked on an idle machine only.
func (p *passed) report(t *testing.T) {
	t.Helper()
	var gaps, turns []time.Duration // how far each is off
	for i := range p.at[1:] {
		gaps = append(gaps, (p.at[i+1].Sub(p.at[i]) - turn).Abs())
		turns = append(turns, (p.at[i+1].Sub(p.at[0]) - time.Duration(i+1)*turn).Abs())
	}
	t.Logf("%d requests at 50/s", len(p.at))
	for what, off := range map[string][]time.Duration{"a gap is off by": gaps, "a turn is off by": turns, "a timer is late by": p.timers} {
		t.Logf("%s %v in the median, p99 %v, at most %v", what, measure.Quantile(off, 0.5), measure.Quantile(off, 0.99), slices.Max(off))
	}
	if measure.Exact() {
		require.Less(t, measure.Quantile(p.timers, 0.99), 3*time.Millisecond, "the machine is not idle")
		assert.Less(t, measure.Quantile(gaps, 0.99), 5*time.Millisecond)
	}
}

// Requests that wait reach the upstream at the rate, in the order in which Redis decided them.
func TestWaiting_isSpacedByTheRate(t *testing.T) {
	if !measure.Exact() {
		t.Parallel()
	}
	redis := redistest.Start(t)
	t.Run("reverse proxy", func(t *testing.T) {
		var got passed
		s := start(t, protocols[0], protocols[0].upstreamSettings(t, func(_ http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Client") == "a" {
				got.add(r.Header.Get("X-Request-Id"))
			}
		}), harness.Settings{"VELOCITY_REDIS_ADDRS": redis.Addr, "VELOCITY_TAKE_TIMEOUT": "5s", "VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
policies:
  - name: spaced
    key: header:X-Client
    max_wait: 10s
    limits: [ { rate: 50/s, capacity: 1 } ]
`)})
		s.status(t, "b") // it is connected to Redis and to the upstream
		got.sendSpaced(t, func() error {
			res, err := s.ask(t.Context(), s.client, "a", "/")
			if err != nil {
				return err
			}
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode != http.StatusOK {
				return fmt.Errorf("status %d", res.StatusCode)
			}
			return nil
		})
		s.Stop()
		decided := map[string]float64{} // by the clock of Redis
		for _, line := range s.LogLines("Decision: ALLOWED") {
			decided[line["requestID"].(string)] = line["storeTimeUs"].(float64)
		}
		overtook := 0
		for i, id := range got.ids {
			require.Contains(t, decided, id)
			if i > 0 && decided[id] < decided[got.ids[i-1]] {
				overtook++
			}
		}
		t.Logf("%d requests overtook another", overtook)
		got.report(t)
		if measure.Exact() {
			assert.Zero(t, overtook)
		}
	})
	t.Run("Go package", func(t *testing.T) {
		limiter, err := velocity.New(velocity.Config{
			Redis: []string{redis.Addr}, TakeTimeout: 5 * time.Second,
			Policies: []velocity.Policy{{Name: velocity.DefaultPolicy, MaxWait: 10 * time.Second, Limits: []velocity.Limit{velocity.PerSecond(50).Burst(1)}}},
		})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, limiter.Close()) })
		require.NoError(t, limiter.Wait(t.Context(), "b"))
		var got passed
		got.sendSpaced(t, func() error {
			err := limiter.Wait(t.Context(), "a")
			got.add("")
			return err
		})
		got.report(t)
	})
}
