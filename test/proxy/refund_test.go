package proxy

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/test/harness"
)

// A request counts as answered by the upstream's status only if the whole answer has reached the client. So a client
// that cancels has spent the token, and so has one that gets half an answer.
func TestRefund_onlyForAWholeAnswer(t *testing.T) {
	t.Parallel()
	const patience = 3 * time.Second // with the upstream
	wait := func(r *http.Request, d time.Duration) {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	}
	file := harness.WriteFile(t, "policies.yaml", `
policies:
  - name: each
    key: header:X-Client
    refund_on: [2xx, 502, 504]
    limits: [ { rate: 1/h, capacity: 3 } ]
`)
	eachClient(t, func(t *testing.T, client protocol) {
		s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/at-once":
			case "/large":
				_, _ = io.WriteString(w, largeAnswer)
			case "/soon":
				wait(r, 2*time.Second)
			case "/later":
				wait(r, 2*patience)
			case "/stream":
				for range 3 {
					_, _ = io.WriteString(w, "event")
					flush(w)
					time.Sleep(50 * time.Millisecond)
				}
			case "/long-stream":
				_, _ = io.WriteString(w, "event")
				flush(w)
				wait(r, 2*time.Second)
			case "/breaks":
				w.Header().Set("Content-Length", "100000")
				_, _ = io.WriteString(w, "half")
				flush(w)
				panic(http.ErrAbortHandler)
			case "/breaks-chunked":
				_, _ = io.WriteString(w, "half")
				flush(w)
				panic(http.ErrAbortHandler)
			case "/breaks-at-once":
				panic(http.ErrAbortHandler)
			case "/fails":
				w.WriteHeader(http.StatusInternalServerError)
			}
		}), harness.Settings{"VELOCITY_POLICY_FILE": file, "VELOCITY_UPSTREAM_TIMEOUT": patience.String()})
		var all sync.WaitGroup
		for name, c := range map[string]struct {
			path  string
			leave time.Duration // after the request was sent; 0: the client stays
			left  float64       // of three tokens
		}{
			"a whole answer":              {"/at-once", 0, 3},
			"a whole stream":              {"/stream", 0, 3},
			"a large answer":              {"/large", 0, 3},
			"another status":              {"/fails", 0, 2},
			"our 502":                     {"/breaks-at-once", 0, 3},
			"our 504":                     {"/later", 0, 3},
			"it leaves before the answer": {"/soon", 100 * time.Millisecond, 2},
			"it leaves before the 504":    {"/later", 200 * time.Millisecond, 2},
			"it leaves within the stream": {"/long-stream", 200 * time.Millisecond, 2},
			"it reads no large answer":    {"/large", 100 * time.Millisecond, 2},
			"half an answer":              {"/breaks", 0, 2},
			"half a chunked answer":       {"/breaks-chunked", 0, 2},
		} {
			all.Go(func() {
				key := strings.ReplaceAll(name, " ", "-")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
					if c.leave > 0 {
						time.AfterFunc(c.leave, cancel)
					}
				}})
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+c.path, nil)
				if !assert.NoError(t, err) {
					return
				}
				req.Header.Set("X-Client", key)
				transport := s.newTransport(client) // a connection of its own
				defer transport.CloseIdleConnections()
				if res, err := transport.RoundTrip(req); err == nil {
					if c.path == "/large" && c.leave > 0 {
						<-ctx.Done()
					} else {
						_, _ = io.Copy(io.Discard, res.Body)
					}
					_ = res.Body.Close()
				}
				if c.left == 2 { // it would come back within this time
					time.Sleep(patience + time.Second)
				}
				tokens := func() float64 { // whole ones: some refill meanwhile
					got := s.MustDo(http.MethodGet, s.Admin+"/v1/buckets/each/"+key, "")
					return math.Floor(got.JSON(t)["limits"].([]any)[0].(map[string]any)["tokens"].(float64))
				}
				assert.Eventually(t, func() bool { return tokens() == c.left }, 5*time.Second, harness.Interval,
					"%s: tokens left: %v, not %v", name, tokens(), c.left)
			})
		}
		all.Wait()
	})
}
