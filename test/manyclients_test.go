//go:build faults

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
	"github.com/velocity-limiter/velocity/test/measure"
)

// Connections that are used once and then idle do not delay other clients.
func TestHostile_idleConnectionsDelayNoRequest(t *testing.T) {
	idle, samples := 500, 300
	if measure.Exact() {
		idle, samples = 10_000, 5000
	}
	p := harness.Start(t, harness.Settings{"VELOCITY_RATE": "1000000/s", "VELOCITY_CAPACITY": "1000000", "VELOCITY_LOG_DECISIONS": "none"})
	p99 := func() time.Duration {
		var took []time.Duration
		for range samples {
			began := time.Now()
			require.Equal(t, http.StatusOK, p.Resource().Status)
			took = append(took, time.Since(began))
		}
		return measure.Quantile(took, 0.99)
	}
	p99() // connects
	before := p99()
	var held []net.Conn
	for range idle {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
		require.NoError(t, err, "after %d", len(held))
		held = append(held, conn)
		_, err = io.WriteString(conn, "GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		_ = res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	during := p99()
	alive := 0
	for _, conn := range held {
		_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); os.IsTimeout(err) {
			alive++
		}
		_ = conn.Close()
	}
	t.Logf("%d of %d held, p99 %v before, %v with them", alive, idle, before, during)
	measure.Keep(t, "idle", map[string]any{"Held": alive, "Ratio": float64(during) / float64(before)})
	assert.Equal(t, idle, alive)
}

// Memory is bounded, however many clients there are.
func TestHostile_manyClientsNeedBoundedMemory(t *testing.T) {
	clients := 50_000
	if measure.Exact() {
		clients = 5_000_000
	}
	p := harness.Start(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1", "VELOCITY_LOG_DECISIONS": "none"})
	p.Client = loadClient(t)
	const each = 1000
	var wg sync.WaitGroup
	calls := make(chan int)
	for range 8 {
		wg.Go(func() {
			for call := range calls {
				var body strings.Builder
				body.WriteString(`{"checks":[`)
				for i := range each {
					if i > 0 {
						body.WriteByte(',')
					}
					fmt.Fprintf(&body, `{"key":"client-%d"}`, call*each+i)
				}
				body.WriteString(`]}`)
				a, err := p.Do(http.MethodPost, p.URL+"/v1/checks", body.String())
				assert.NoError(t, err)
				assert.Equal(t, http.StatusOK, a.Status)
			}
		})
	}
	for call := range clients / each {
		calls <- call
	}
	close(calls)
	wg.Wait()
	peak := peakMemory(t, p)
	t.Logf("%d clients, peak RSS %d MiB", clients, peak>>20)
	measure.Keep(t, "clients", map[string]any{"Clients": clients, "Peak": peak})
	assert.LessOrEqual(t, peak, int64(1<<30))
}
