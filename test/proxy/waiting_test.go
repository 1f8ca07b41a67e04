package proxy

import (
	"bufio"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
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
