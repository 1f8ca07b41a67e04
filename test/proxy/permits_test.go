package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
	"github.com/velocity-limiter/velocity/test/measure"
)

// soon is the time in which a permit is free again that has ended.
const soon = 100 * time.Millisecond

// onePermit is a policy by which each client has one request at once. Only what ends a permit within an hour ends it in a test.
func onePermit(t *testing.T) harness.Settings {
	t.Helper()
	return onePermitOf(t, "1h")
}

func onePermitOf(t *testing.T, lease string) harness.Settings {
	t.Helper()
	return harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", fmt.Sprintf(`
policies:
  - name: one
    key: header:X-Client
    limits: [ { concurrent: 1, lease: %s } ]
`, lease))}
}

// ask sends a request by a client of its own connection, and returns the status of the answer.
func (s *server) ask(ctx context.Context, client *http.Client, key, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Client", key)
	return client.Do(req)
}

// status is the status of a short request of the client's.
func (s *server) status(t *testing.T, key string) int {
	t.Helper()
	res, err := s.ask(t.Context(), s.client, key, "/at-once")
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}

// untilFree returns how long the client's permit stays held.
func (s *server) untilFree(t *testing.T, key string) time.Duration {
	t.Helper()
	began := time.Now()
	for s.status(t, key) != http.StatusOK {
		require.Less(t, time.Since(began), harness.Timeout, "%s holds its permit", key)
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

var largeAnswer = strings.Repeat("x", 10<<20)

// endings is an upstream whose answers end in all ways.
func endings(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/at-once":
	case "/large":
		_, _ = io.WriteString(w, largeAnswer)
	case "/stream":
		for range 3 {
			_, _ = io.WriteString(w, "event")
			flush(w)
			time.Sleep(20 * time.Millisecond)
		}
	case "/silent":
		<-r.Context().Done()
	case "/silent-stream":
		flush(w)
		<-r.Context().Done()
	case "/reads":
		_, _ = io.Copy(io.Discard, r.Body)
	case "/breaks":
		w.Header().Set("Content-Length", "100000")
		_, _ = io.WriteString(w, "half")
		flush(w)
		panic(http.ErrAbortHandler)
	case "/breaks-at-once":
		panic(http.ErrAbortHandler)
	}
}

// The slot of a request is free soon after its end, whatever that is.
func TestPermit_endsWithTheExchange(t *testing.T) {
	t.Parallel()
	eachClient(t, func(t *testing.T, client protocol) {
		var begun sync.Map // by client, a channel that gets a value when a request has reached the upstream
		s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			if c, ok := begun.Load(r.Header.Get("X-Client")); ok && r.URL.Path != "/at-once" {
				c.(chan struct{}) <- struct{}{}
			}
			endings(w, r)
		}), onePermit(t), harness.Settings{"VELOCITY_UPSTREAM_TIMEOUT": "1s"})
		holds := func(t *testing.T, key string) {
			c, _ := begun.Load(key)
			<-c.(chan struct{})
			assert.Equal(t, http.StatusTooManyRequests, s.status(t, key), key)
		}
		type exchange func(t *testing.T, ctx context.Context, own *http.Client, key string)
		whole := func(path string, status int) exchange {
			return func(t *testing.T, ctx context.Context, own *http.Client, key string) {
				res, err := s.ask(ctx, own, key, path)
				require.NoError(t, err)
				assert.Equal(t, status, res.StatusCode, path)
				_, _ = io.Copy(io.Discard, res.Body) // it may break off
				_ = res.Body.Close()
			}
		}
		// left leaves once the request holds the permit, and before its answer or within it.
		left := func(path string) exchange {
			return func(t *testing.T, ctx context.Context, own *http.Client, key string) {
				ctx, leave := context.WithCancel(ctx)
				over := make(chan struct{})
				go func() {
					defer close(over)
					if res, err := s.ask(ctx, own, key, path); err == nil {
						<-ctx.Done()
						_ = res.Body.Close()
					}
				}()
				holds(t, key)
				leave()
				<-over
				own.CloseIdleConnections()
			}
		}
		cases := map[string]exchange{
			"a whole answer":              whole("/at-once", 200),
			"a whole stream":              whole("/stream", 200),
			"a large answer":              whole("/large", 200),
			"our 502":                     whole("/breaks-at-once", 502),
			"our 504":                     whole("/silent", 504),
			"half an answer":              whole("/breaks", 200),
			"it leaves before the answer": left("/silent"),
			"it leaves within the stream": left("/silent-stream"),
			"it reads no large answer":    left("/large"),
		}
		if client == protocols[0] {
			cases["half a request"] = func(t *testing.T, _ context.Context, _ *http.Client, key string) {
				conn := s.dial(t)
				_, err := fmt.Fprintf(conn, "POST /reads HTTP/1.1\r\nHost: x\r\nX-Client: %s\r\nContent-Length: 100\r\n\r\nhalf", key)
				require.NoError(t, err)
				holds(t, key)
				require.NoError(t, conn.Close())
			}
		}
		var all sync.WaitGroup
		for name, exchange := range cases {
			all.Go(func() {
				key := strings.ReplaceAll(name, " ", "-")
				took := harness.Timeout
				begun.Store(key, make(chan struct{}, 10))
				for try := 0; took >= soon && try < 30; try++ { // a busy machine may delay one
					own := &http.Client{Transport: s.newTransport(client)}
					exchange(t, t.Context(), own, key)
					took = min(took, s.untilFree(t, key))
					own.CloseIdleConnections()
				}
				assert.Less(t, took, soon, name)
			})
		}
		all.Wait()
	})
}

func TestPermit_endsWithTheWebSocket(t *testing.T) {
	t.Parallel()
	for _, client := range protocols[:2] {
		t.Run("client "+client.name, func(t *testing.T) {
			t.Parallel()
			var left atomic.Int32
			s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/at-once" {
					return
				}
				echoSocket(&left)(w, r)
			}), onePermit(t))
			ends := map[string]func(*websocket.Conn) error{
				"a farewell":     func(c *websocket.Conn) error { return c.Close(websocket.StatusNormalClosure, "") },
				"without a word": (*websocket.Conn).CloseNow,
				"a message too large for the upstream": func(c *websocket.Conn) error {
					if err := c.Write(t.Context(), websocket.MessageBinary, make([]byte, 2<<20)); err != nil {
						return err
					}
					_, _, err := c.Read(t.Context())
					assert.Error(t, err)
					return nil
				},
			}
			for name, end := range ends {
				took := harness.Timeout
				for try := 0; took >= soon && try < 30; try++ {
					ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
					c, _, err := websocket.Dial(ctx, s.URL+"/chat", &websocket.DialOptions{
						HTTPClient: &http.Client{Transport: s.newTransport(protocols[0])}, HTTPHeader: http.Header{"X-Client": {"a"}},
					})
					require.NoError(t, err, name)
					assert.Equal(t, http.StatusTooManyRequests, s.status(t, "a"), name)
					require.NoError(t, end(c), name)
					took = min(took, s.untilFree(t, "a"))
					_ = c.CloseNow()
					cancel()
				}
				assert.Less(t, took, soon, name)
			}
		})
	}
}

// A request that lasts for several leases keeps its slot.
func TestPermit_outlivesItsLease(t *testing.T) {
	t.Parallel()
	begun, over := make(chan struct{}), make(chan struct{})
	s := start(t, protocols[0], protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
		flush(w)
		if r.URL.Path == "/long" {
			close(begun)
			time.Sleep(10 * time.Second)
		}
	}), onePermitOf(t, "2s"))
	go func() {
		defer close(over)
		if res, err := s.ask(t.Context(), s.client, "a", "/long"); assert.NoError(t, err) {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	}()
	<-begun
	for done := false; !done; {
		select {
		case <-over:
			done = true
		case <-time.After(200 * time.Millisecond):
			if status := s.status(t, "a"); status != http.StatusTooManyRequests {
				select {
				case <-over: // meanwhile
				case <-time.After(200 * time.Millisecond):
					t.Fatalf("a second request got %d", status)
				}
			}
		}
	}
	s.untilFree(t, "a")
}

// Clients that come and go leave nothing held.
func TestPermit_abortedRequestsLeaveNothingHeld(t *testing.T) { // not parallel: it would starve the others
	const clients = 50
	requests := int64(10_000)
	if harness.Race() {
		requests = 1_000
	}
	file := harness.WriteFile(t, "policies.yaml", `
policies:
  - name: some
    key: header:X-Client
    limits: [ { concurrent: 5, lease: 1h } ]
`)
	s := start(t, protocols[0], protocols[0].upstreamSettings(t, endings), harness.Settings{"VELOCITY_POLICY_FILE": file})
	var all sync.WaitGroup
	var asked atomic.Int64
	for range 2 * clients {
		all.Go(func() {
			for i := asked.Add(1); i <= requests; i = asked.Add(1) {
				conn, err := net.Dial("tcp", s.addr)
				if !assert.NoError(t, err) {
					return
				}
				path := [...]string{"/silent", "/silent-stream", "/large", "/stream"}[i%4]
				_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nX-Client: c%d\r\n\r\n", path, i%clients)
				time.Sleep(time.Duration(i%7) * time.Millisecond)
				_ = conn.Close()
			}
		})
	}
	all.Wait()
	for i := range clients {
		key := fmt.Sprintf("c%d", i)
		assert.Eventually(t, func() bool {
			res, err := s.ask(t.Context(), s.client, key, "/at-once")
			if !assert.NoError(t, err) {
				return false
			}
			_ = res.Body.Close()
			return strings.Contains(res.Header.Get("RateLimit"), ";r=4")
		}, harness.Timeout, harness.Interval, key)
	}
}

// A slot is free at another node once the answer is complete, its client has left, or it is released. How soon is checked on an
// idle machine only.
func TestPermit_isFreeAtAnotherNode(t *testing.T) {
	const token = "token-of-the-decision-api"
	times := 200
	if !measure.Exact() {
		t.Parallel()
		times = 5
	}
	begun, answer := make(chan struct{}), make(chan struct{})
	settings := protocols[0].upstreamSettings(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/at-once" {
			return
		}
		begun <- struct{}{}
		select {
		case <-answer:
		case <-r.Context().Done():
		}
	})
	settings["VELOCITY_REDIS_ADDRS"], settings["VELOCITY_TAKE_TIMEOUT"], settings["VELOCITY_API_TOKEN"] = redistest.Start(t).Addr, "5s", token
	node, other := start(t, protocols[0], settings, onePermit(t)), start(t, protocols[0], settings, onePermit(t))
	call := func(path, body string) map[string]any {
		res := node.MustDo(http.MethodPost, node.URL+path, body, "Authorization: Bearer "+token)
		require.Equal(t, http.StatusOK, res.Status, res.Body)
		return res.JSON(t)
	}
	for name, hold := range map[string]func() (end func()){
		"its answer is complete": func() func() {
			var asked sync.WaitGroup
			asked.Go(func() {
				if res, err := node.ask(t.Context(), node.client, "a", "/held"); assert.NoError(t, err) {
					assert.NoError(t, res.Body.Close())
				}
			})
			<-begun
			return func() { answer <- struct{}{}; asked.Wait() }
		},
		"its client has left": func() func() {
			conn := node.dial(t)
			_, err := io.WriteString(conn, "GET /held HTTP/1.1\r\nHost: x\r\nX-Client: a\r\n\r\n")
			require.NoError(t, err)
			<-begun
			return func() { require.NoError(t, conn.Close()) }
		},
		"it is released": func() func() {
			permit := call("/v1/check", `{"policy": "one", "key": "a"}`)["permit"]
			return func() { require.Equal(t, true, call("/v1/release", fmt.Sprintf(`{"permit": %q}`, permit))["released"]) }
		},
	} {
		var took []time.Duration
		for range times {
			end := hold()
			require.Equal(t, http.StatusTooManyRequests, other.status(t, "a"), name)
			began := time.Now()
			end()
			other.untilFree(t, "a")
			took = append(took, time.Since(began))
		}
		median, p99 := measure.Quantile(took, 0.5), measure.Quantile(took, 0.99)
		t.Logf("%s: free after %v in the median, p99 %v, at most %v", name, median, p99, took[times-1])
		if measure.Exact() {
			assert.Less(t, p99, soon, name)
		}
	}
}

// A client that sends one request after the other is never denied by a limit of one at once.
func TestPermit_isFreeForTheNextRequest(t *testing.T) {
	t.Parallel()
	eachClient(t, func(t *testing.T, client protocol) {
		s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/length":
				w.Header().Set("Content-Length", "100000")
				_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
			case "/chunks":
				_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
			case "/stream":
				_, _ = io.WriteString(w, "event")
				flush(w)
			case "/trailer":
				w.Header().Set("Trailer", "X-Sum")
				_, _ = io.WriteString(w, "body")
				w.Header().Set("X-Sum", "4")
			case "/none":
				w.WriteHeader(http.StatusNoContent)
			}
		}), onePermit(t))
		paths := []string{"/empty", "/length", "/chunks", "/stream", "/trailer", "/none"}
		denied := map[string]int{}
		for i := range 100 * len(paths) {
			path := paths[i%len(paths)]
			res, err := s.ask(t.Context(), s.client, "a", path)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			if res.StatusCode == http.StatusTooManyRequests {
				denied[paths[(i+len(paths)-1)%len(paths)]]++
			}
		}
		assert.Empty(t, denied, "by the path of the request before")
	})
}

// A process that stops ends what it holds, also of a request that it cuts off.
func TestPermit_endsWithTheProcess(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	settings := onePermit(t)
	settings["VELOCITY_REDIS_ADDRS"], settings["VELOCITY_TAKE_TIMEOUT"] = redis.Addr, "5s"
	other := start(t, protocols[0], protocols[0].upstreamSettings(t, endings), settings)
	socket := start(t, protocols[0], protocols[0].upstreamSettings(t, echoSocket(new(atomic.Int32))), settings)
	begun := make(chan struct{})
	s := start(t, protocols[0], protocols[0].upstreamSettings(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	}), settings)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
	defer cancel()
	c, _, err := websocket.Dial(ctx, socket.URL+"/", &websocket.DialOptions{HTTPHeader: http.Header{"X-Client": {"b"}}})
	require.NoError(t, err)
	defer func() { _ = c.CloseNow() }()
	conn := s.dial(t)
	_, err = io.WriteString(conn, "GET /silent HTTP/1.1\r\nHost: x\r\nX-Client: a\r\n\r\n")
	require.NoError(t, err)
	<-begun
	for _, key := range []string{"a", "b"} {
		require.Equal(t, http.StatusTooManyRequests, other.status(t, key))
	}
	for key, process := range map[string]*server{"a": s, "b": socket} {
		require.NoError(t, process.Cmd.Process.Signal(syscall.SIGTERM))
		require.Eventually(t, process.HasExited, harness.Timeout, harness.Interval)
		other.untilFree(t, key)
	}
}
