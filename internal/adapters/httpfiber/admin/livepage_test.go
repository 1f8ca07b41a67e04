package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

type totals ports.Totals

func (t totals) Totals() ports.Totals { return ports.Totals(t) }

type statsOf []ports.ShardStats

func (s statsOf) Stats() []ports.ShardStats { return s }

// live shows a service with one shard that is up, one that is down and one whose breaker is open still.
func live() admin.LiveSources {
	return admin.LiveSources{
		Monitor: totals{
			Decisions: []ports.DecisionCount{{Policy: "search", Outcome: "denied", Store: decision.StoreRedis, Count: 7}},
			Latency:   ports.Histogram{Bounds: []float64{.001}, Counts: []uint64{3, 4}, Sum: .5},
		},
		Top: topOf(func(int) ports.TopReport { return ports.TopReport{Window: time.Second} }),
		Health: shards{
			{Name: "shard-0"}, {Name: "shard-1", Err: errors.New("10.1.2.3 refused")}, {Name: "shard-2"},
		},
		Stats: statsOf{
			{
				Name: "shard-0", Breaker: ports.BreakerClosed, Up: true, Queued: 2, InFlight: 1, Groups: 9,
				Failures: map[string]uint64{"timeout": 2, "oom": 1},
			},
			{Name: "shard-2", Breaker: ports.BreakerHalfOpen, Since: time.UnixMilli(1700000000123)},
		},
		Version: "v1.2.3",
	}
}

type event struct {
	AtMS      int64 `json:"at_ms"`
	Version   string
	State     string
	Decisions []map[string]any
	Latency   map[string]any `json:"latency_seconds"`
	Shards    []map[string]any
	Top       map[string]any
}

func assertIsLive(t *testing.T, body string) {
	t.Helper()
	var e event
	require.NoError(t, json.Unmarshal([]byte(body), &e), body)
	assert.WithinDuration(t, time.Now(), time.UnixMilli(e.AtMS), time.Minute)
	assert.Equal(t, "v1.2.3", e.Version)
	assert.Equal(t, "degraded", e.State)
	assert.Equal(t, []map[string]any{{"policy": "search", "outcome": "denied", "store": "redis", "count": 7.0}}, e.Decisions)
	assert.Equal(t, map[string]any{"bounds": []any{.001}, "counts": []any{3.0, 4.0}, "sum": .5}, e.Latency)
	require.Len(t, e.Shards, 3)
	assert.Equal(t, []any{true, false, false}, []any{e.Shards[0]["up"], e.Shards[1]["up"], e.Shards[2]["up"]})
	assert.InDelta(t, 3, e.Shards[0]["failures"], 0)
	assert.NotContains(t, e.Shards[1], "breaker", "nothing is known of it")
	assert.Equal(t, "half-open", e.Shards[2]["breaker"])
	assert.InDelta(t, 1700000000123, e.Shards[2]["since_ms"], 0)
	assert.Equal(t, []any{}, e.Top["policies"])
	assert.NotContains(t, body, "10.1.2.3", "no address is shown")
}

func TestStatus(t *testing.T) {
	url := startAdminWith(t, admin.Config{Token: "secret"}, admin.WithLivePage(live()))
	assert.Equal(t, 401, call(t, "GET", url+"/v1/status", "").status)
	got := call(t, "GET", url+"/v1/status", "", "Authorization", "Bearer secret")
	require.Equal(t, 200, got.status, got.body)
	assertIsLive(t, got.body)
}

// watch opens the stream of events.
func watch(t *testing.T, url string) (*http.Response, context.CancelFunc) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	t.Cleanup(leave)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/live", http.NoBody)
	require.NoError(t, err)
	res, err := (&http.Transport{}).RoundTrip(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res, leave
}

func TestLive_sendsAnEventEachSecond(t *testing.T) {
	url := startAdminWith(t, admin.Config{}, admin.WithLivePage(live()))
	res, _ := watch(t, url)
	assert.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	assert.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	lines := bufio.NewScanner(res.Body)
	for range 2 {
		require.True(t, lines.Scan())
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		require.True(t, ok, lines.Text())
		assertIsLive(t, data)
		require.True(t, lines.Scan())
		assert.Empty(t, lines.Text())
	}
}

func TestLive_showsALaterViewerTheLastEventAtOnce(t *testing.T) {
	url := startAdminWith(t, admin.Config{}, admin.WithLivePage(live()))
	first, _ := watch(t, url)
	require.True(t, bufio.NewScanner(first.Body).Scan())
	assert.Eventually(t, func() bool {
		came := time.Now().UnixMilli()
		res, leave := watch(t, url)
		defer leave()
		lines := bufio.NewScanner(res.Body)
		var e event
		return lines.Scan() && json.Unmarshal([]byte(strings.TrimPrefix(lines.Text(), "data: ")), &e) == nil && e.AtMS < came
	}, 20*time.Second, 150*time.Millisecond, "the event is newer than the viewer")
}

// counting counts how often it is asked.
type counting struct {
	totals
	asked *atomic.Int64
}

func (c counting) Totals() ports.Totals {
	c.asked.Add(1)
	return c.totals.Totals()
}

func TestLive_stopsWithoutViewers(t *testing.T) {
	sources, asked := live(), new(atomic.Int64)
	sources.Monitor = counting{sources.Monitor.(totals), asked}
	url := startAdminWith(t, admin.Config{}, admin.WithLivePage(sources))
	res, leave := watch(t, url)
	require.True(t, bufio.NewScanner(res.Body).Scan())
	leave()
	assert.Eventually(t, func() bool {
		before := asked.Load()
		time.Sleep(2500 * time.Millisecond) // an event is due each second
		return asked.Load() == before
	}, 20*time.Second, 10*time.Millisecond)
}

func TestLive_boundsTheNumberOfViewers(t *testing.T) {
	url := startAdminWith(t, admin.Config{}, admin.WithLivePage(live()))
	var leave context.CancelFunc
	for range 16 {
		var res *http.Response
		res, leave = watch(t, url)
		require.Equal(t, 200, res.StatusCode)
	}
	res, _ := watch(t, url)
	assert.Equal(t, 503, res.StatusCode)
	assert.Equal(t, "1", res.Header.Get("Retry-After"))
	leave()
	assert.Eventually(t, func() bool {
		res, _ := watch(t, url)
		return res.StatusCode == 200
	}, 20*time.Second, 100*time.Millisecond, "a viewer that leaves frees its place")
}

func TestLive_endsWithTheService(t *testing.T) {
	a, err := admin.New(admin.Config{Addr: "127.0.0.1:0"}, nil, shards{}, admin.ServiceState{},
		zap.NewNop(), admin.WithLivePage(live()))
	require.NoError(t, err)
	ln, err := a.Listen()
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- a.Serve(ln) }()
	res, _ := watch(t, "http://"+ln.Addr().String())
	lines := bufio.NewScanner(res.Body)
	require.True(t, lines.Scan())

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, a.Shutdown(ctx), "no viewer keeps the service")
	for lines.Scan() {
		assert.NotNil(t, lines.Text()) // what was under way
	}
	require.NoError(t, lines.Err(), "the stream has an orderly end")
	require.NoError(t, <-served)
}

func TestLivePage_needsNoTokenAndLoadsNothingElse(t *testing.T) {
	url := startAdminWith(t, admin.Config{Token: "secret"}, admin.WithLivePage(live()))
	for path, contentType := range map[string]string{
		"/": "text/html; charset=utf-8", "/page/main.js": "text/javascript; charset=utf-8",
		"/page/page.css": "text/css; charset=utf-8", "/page/icon.svg": "image/svg+xml",
		"/page/uPlot.LICENSE.txt": "text/plain; charset=utf-8",
	} {
		got := call(t, "GET", url+path, "")
		require.Equal(t, 200, got.status, path)
		assert.Equal(t, contentType, got.header.Get("Content-Type"), path)
		assert.Contains(t, got.header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'; style-src 'self';")
		assert.NotContains(t, got.header.Get("Content-Security-Policy"), "unsafe")
		assert.Equal(t, "nosniff", got.header.Get("X-Content-Type-Options"))
	}
	html := call(t, "GET", url+"/", "").body
	assert.NotContains(t, html, "style=")
	assert.NotContains(t, html, "://", "nothing of another origin")
	nothing := call(t, "GET", url+"/page/nothing.js", "")
	assert.Equal(t, 404, nothing.status)
	assert.Equal(t, "there is nothing at this path", nothing.problem(t)["detail"])
}
