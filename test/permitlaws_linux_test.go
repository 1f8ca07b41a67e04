package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// openRequests is an upstream that counts each client's open requests. A request is open until it is answered, or its connection
// ends.
type openRequests struct {
	url    string
	atOnce int // of one client

	mu       sync.Mutex
	open     map[string][]net.Conn // of each client's requests
	mostOpen int
	requests int
}

type connKey struct{}

func newOpenRequests(t *testing.T, atOnce int) *openRequests {
	u := &openRequests{atOnce: atOnce, open: map[string][]net.Conn{}}
	s := httptest.NewUnstartedServer(u)
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	u.url = s.URL
	return u
}

// ServeHTTP answers after the time that the request asks for in hold.
func (u *openRequests) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	hold, err := time.ParseDuration(r.URL.Query().Get("hold"))
	if err != nil {
		hold = 0
	}
	conn, client := r.Context().Value(connKey{}).(net.Conn), r.Header.Get("X-Client-ID")
	u.mu.Lock()
	u.requests++
	u.open[client] = append(u.open[client], conn)
	u.mu.Unlock()
	u.count(client)
	select {
	case <-r.Context().Done():
	case <-time.After(hold):
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open[client] = slices.DeleteFunc(u.open[client], func(c net.Conn) bool { return c == conn })
}

// count counts a client's open requests. This process hears late of the end of a connection, so the connection itself is asked;
// and the kernel of a busy machine may deliver that end late, so what is too much counts only if it lasts.
func (u *openRequests) count(client string) {
	for end := time.Now().Add(20 * time.Millisecond); ; time.Sleep(time.Millisecond) {
		u.mu.Lock()
		u.open[client] = slices.DeleteFunc(u.open[client], isClosed)
		open := len(u.open[client])
		if open <= u.atOnce || time.Now().After(end) {
			u.mostOpen = max(u.mostOpen, open)
			u.mu.Unlock()
			return
		}
		u.mu.Unlock()
	}
}

// isClosed reports whether the peer has closed a connection, even if its end has not been read yet.
func isClosed(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	closed := true
	_ = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = err == nil && n == 0 || err != nil && !errors.Is(err, syscall.EAGAIN)
	})
	return closed
}

// state returns how many requests came, and the most of one client that were open at once.
func (u *openRequests) state() (requests, most int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.requests, u.mostOpen
}

// held returns the most permits that one of the clients holds, by the servers' clock, which is this machine's.
func held(t *testing.T, shards []*redis.Client, clients int) (most int64) {
	t.Helper()
	for _, shard := range shards {
		pipe, now := shard.Pipeline(), "("+strconv.FormatInt(time.Now().UnixMicro(), 10)
		var counts []*redis.IntCmd
		for c := range clients {
			counts = append(counts, pipe.ZCount(t.Context(), fmt.Sprintf("velocity:{jobs:h:x-client-id=c%d}:f:parallel", c), now, "+inf"))
		}
		_, err := pipe.Exec(t.Context())
		require.NoError(t, err)
		for _, count := range counts {
			most = max(most, count.Val())
		}
	}
	return most
}

func clientsOf(t *testing.T, addrs []string) (clients []*redis.Client) {
	for _, addr := range addrs {
		c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: 3})
		t.Cleanup(func() { _ = c.Close() })
		clients = append(clients, c)
	}
	return clients
}

// permitSettings are those of a proxy that lets each client have atOnce requests at once.
func permitSettings(t *testing.T, upstream string, addrs []string, atOnce int, lease time.Duration) harness.Settings {
	named := slices.Clone(addrs)
	for i := range named {
		named[i] = fmt.Sprintf("s%d=%s", i, named[i])
	}
	return harness.Settings{
		"VELOCITY_REDIS_ADDRS": strings.Join(named, ","), "VELOCITY_UPSTREAM_URL": upstream,
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", fmt.Sprintf(`
policies:
  - name: jobs
    match: { path: "/**" }
    key: header:X-Client-ID
    on_store_failure: closed
    limits: [{ name: parallel, concurrent: %d, lease: %s }]
`, atOnce, lease)),
	}
}

// misbehave sends requests for a client until ctx ends, each of which is answered, aborted, timed out, or cut off with its
// connection. It returns how many passed.
func misbehave(ctx context.Context, base func() string, client string, seed uint64, passed *atomic.Int64) {
	random := rand.New(rand.NewPCG(seed, 1))
	transport := &http.Transport{DisableKeepAlives: true}
	for ctx.Err() == nil {
		target := fmt.Sprintf("%s/?hold=%dms", base(), 30+random.IntN(100))
		switch random.IntN(4) {
		case 0: // aborted, or timed out
			limited, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(100))*time.Millisecond)
			send(limited, transport, target, client)
			cancel()
		case 1: // gone without a word
			conn, err := net.DialTimeout("tcp", strings.TrimPrefix(base(), "http://"), time.Second)
			if err != nil {
				continue // its node was killed
			}
			_, _ = fmt.Fprintf(conn, "GET /?hold=100ms HTTP/1.1\r\nHost: x\r\nX-Client-ID: %s\r\n\r\n", client)
			time.Sleep(time.Duration(random.IntN(80)) * time.Millisecond)
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		default:
			if send(ctx, transport, target, client) == http.StatusOK {
				passed.Add(1)
			}
		}
	}
}

// send returns the status, or 0 if there was no answer.
func send(ctx context.Context, transport *http.Transport, target, client string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return 0
	}
	req.Header.Set("X-Client-ID", client)
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// Two nodes over three shards, 60 users of 12 clients that hold, abort, cut and time out, and one node is killed under load: no
// client ever has more requests open than its limit, and all slots are back after the lease of what the node held.
func TestPermits_neverMoreThanTheLimitAtOnce(t *testing.T) {
	t.Parallel()
	const users, clients, atOnce, lease = 60, 12, 3, 2 * time.Second
	upstream := newOpenRequests(t, atOnce)
	_, addrs := redistest.StartN(t, 3)
	shards := clientsOf(t, addrs)
	vars := permitSettings(t, upstream.url, addrs, atOnce, lease)
	nodes := []*harness.Process{harness.Start(t, vars), harness.Start(t, vars)}
	killed := harness.Start(t, vars)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var passed atomic.Int64
	var all sync.WaitGroup
	for i := range users {
		base := func() string { return nodes[i%2].URL }
		if i%3 == 2 {
			base = func() string {
				if killed.HasExited() {
					return nodes[i%2].URL
				}
				return killed.URL
			}
		}
		all.Go(func() { misbehave(ctx, base, fmt.Sprintf("c%d", i%clients), uint64(i), &passed) })
	}
	mostHeld := int64(0)
	watch := func() {
		for started := time.Now(); time.Since(started) < 2*time.Second; time.Sleep(20 * time.Millisecond) {
			mostHeld = max(mostHeld, held(t, shards, clients))
		}
	}
	watch()
	killed.Signal(syscall.SIGKILL)
	watch()
	cancel()
	all.Wait()
	ended := time.Now()
	assert.EqualValues(t, atOnce, mostHeld, "permits in the store")
	require.Eventually(t, func() bool { return held(t, shards, clients) == 0 }, lease+harness.Timeout, 10*time.Millisecond)
	assert.Less(t, time.Since(ended), lease, "the lease of what the killed node held")
	requests, mostOpen := upstream.state()
	t.Logf("%d requests passed, %d reached the upstream, all slots were back %v after the last", passed.Load(), requests, time.Since(ended))
	assert.Greater(t, passed.Load(), int64(100))
	assert.Equal(t, atOnce, mostOpen, "requests at the upstream")
}

// A server that writes each change to its disk forgets no permit: it is killed and started again under load, and under
// `closed` no client ever has more requests open than its limit.
func TestPermits_survive(t *testing.T) {
	t.Parallel()
	const users, clients, atOnce = 20, 4, 3
	upstream := newOpenRequests(t, atOnce)
	redisServer := redistest.Start(t, redistest.Args("--appendonly", "yes", "--appendfsync", "always"))
	node := harness.Start(t, permitSettings(t, upstream.url, []string{redisServer.Addr}, atOnce, 5*time.Second))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var passed atomic.Int64
	var all sync.WaitGroup
	for i := range users {
		all.Go(func() {
			misbehave(ctx, func() string { return node.URL }, fmt.Sprintf("c%d", i%clients), uint64(i), &passed)
		})
	}
	for range 4 {
		time.Sleep(500 * time.Millisecond)
		redisServer.Kill()
		time.Sleep(100 * time.Millisecond)
		redisServer.Restart()
	}
	before := passed.Load()
	require.Eventually(t, func() bool { return passed.Load() > before+20 }, harness.Timeout, 20*time.Millisecond, "it decides again")
	cancel()
	all.Wait()
	requests, mostOpen := upstream.state()
	t.Logf("%d requests passed, %d reached the upstream", passed.Load(), requests)
	assert.Equal(t, atOnce, mostOpen, "requests at the upstream")
}

// A server stands still for 300 ms under 200 requests a second. The takes that it carries out late hold slots without a request: they
// are free again within a second.
func TestPermits_aStalledServerLeavesNoSlotHeld(t *testing.T) {
	t.Parallel()
	const atOnce = 5
	upstream := newOpenRequests(t, atOnce)
	redisServer := redistest.Start(t)
	node := harness.Start(t, permitSettings(t, upstream.url, []string{redisServer.Addr}, atOnce, time.Minute))
	shards := clientsOf(t, []string{redisServer.Addr})
	transport := &http.Transport{MaxIdleConnsPerHost: 200}
	t.Cleanup(transport.CloseIdleConnections)
	var all sync.WaitGroup
	var passed, failed atomic.Int64
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	started := time.Now()
	var paused, resumed time.Time
	for now := range tick.C {
		since := now.Sub(started)
		if since > 1300*time.Millisecond {
			break
		}
		if since > 500*time.Millisecond && paused.IsZero() {
			redisServer.Pause()
			paused = time.Now()
		}
		if !paused.IsZero() && resumed.IsZero() && time.Since(paused) > 300*time.Millisecond {
			redisServer.Resume()
			resumed = time.Now()
		}
		all.Go(func() {
			switch send(t.Context(), transport, node.URL+"/?hold=15ms", "c0") {
			case http.StatusOK:
				passed.Add(1)
			case http.StatusServiceUnavailable:
				failed.Add(1)
			}
		})
	}
	all.Wait()
	t.Logf("%d passed, %d failed with the store, %d permits held when all were answered", passed.Load(), failed.Load(), held(t, shards, 1))
	assert.Positive(t, failed.Load(), "the server stood still for longer than a take may last")
	assert.Eventually(t, func() bool { return held(t, shards, 1) == 0 }, time.Until(resumed.Add(time.Second)), 10*time.Millisecond, "slots held without a request")
	t.Logf("no permit is held %v after the server went on", time.Since(resumed))
	_, mostOpen := upstream.state()
	assert.LessOrEqual(t, mostOpen, atOnce)
}
