package velocityhttp_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocityhttp"
)

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func get(h http.Handler, remote, user string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = remote
	r.Header.Set("X-User", user)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func limiter(t *testing.T, cfg velocity.Config) *velocity.Limiter {
	t.Helper()
	l, err := velocity.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

func TestMiddleware_countsByThePeer(t *testing.T) {
	h := velocityhttp.Middleware(limiter(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(2)}}))(http.HandlerFunc(hello))
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		r := get(h, fmt.Sprintf("192.0.2.1:%d", i), fmt.Sprint(i))
		assert.Equal(t, want, r.StatusCode)
		assert.Equal(t, "2", r.Header.Get("X-RateLimit-Limit"))
		assert.Equal(t, fmt.Sprint(max(1-i, 0)), r.Header.Get("X-RateLimit-Remaining"))
	}
	r := get(h, "192.0.2.1:9", "")
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	assert.Equal(t, "application/problem+json", r.Header.Get("Content-Type"))
	assert.Equal(t, "1800", r.Header.Get("Retry-After"))
	assert.Contains(t, string(body), `"status":429,"detail":"the limit default is reached: try again in 1800 s"`)
	assert.Contains(t, string(body), `"policy":"default","violated-policies":["default"]`)
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.2:1", "").StatusCode)
}

func TestMiddleware_quotaUntilItsPeriodEnds(t *testing.T) {
	noon := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	h := velocityhttp.Middleware(limiter(t, velocity.Config{
		Limits: []velocity.Limit{velocity.Quota(1, velocity.Day).In("Europe/Berlin").Named("daily")},
		Now:    func() time.Time { return noon },
	}))(http.HandlerFunc(hello))
	for _, want := range []int{http.StatusOK, http.StatusTooManyRequests} {
		r := get(h, "192.0.2.1:1", "")
		assert.Equal(t, want, r.StatusCode)
		assert.Equal(t, `"daily";q=1;w=86400`, r.Header.Get("RateLimit-Policy"))
		assert.Equal(t, `"daily";r=0;t=39600`, r.Header.Get("RateLimit"), "eleven hours")
		assert.Equal(t, want == http.StatusTooManyRequests, r.Header.Get("Retry-After") == "39600")
	}
}

func TestMiddleware_usesKeyAndCost(t *testing.T) {
	l := limiter(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(3)}})
	h := velocityhttp.Middleware(l,
		velocityhttp.Key(func(r *http.Request) string { return r.Header.Get("X-User") }),
		velocityhttp.Cost(func(*http.Request) int64 { return 2 }),
	)(http.HandlerFunc(hello))
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.1:1", "alice").StatusCode)
	assert.Equal(t, http.StatusTooManyRequests, get(h, "192.0.2.2:1", "alice").StatusCode)
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.1:1", "bob").StatusCode)
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.1:1", "").StatusCode, "without a key, by the peer")
	assert.Equal(t, http.StatusTooManyRequests, get(h, "192.0.2.1:2", "").StatusCode)
}

func TestMiddleware_refusesWhatCannotBeDecided(t *testing.T) {
	l := limiter(t, velocity.Config{
		Limits: []velocity.Limit{velocity.PerHour(3)}, Redis: []string{"127.0.0.1:1"}, Failure: velocity.Closed,
	})
	h := velocityhttp.Middleware(l)(http.HandlerFunc(hello))
	r := get(h, "192.0.2.1:1", "")
	assert.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	assert.Equal(t, "1", r.Header.Get("Retry-After"))
}

func TestMiddleware_choosesThePolicyAndSkips(t *testing.T) {
	l := limiter(t, velocity.Config{
		Limits:   []velocity.Limit{velocity.PerHour(1)},
		Policies: []velocity.Policy{{Name: "staff", Limits: []velocity.Limit{velocity.PerHour(2)}}},
	})
	h := velocityhttp.Middleware(l, nil, velocityhttp.Key(nil), velocityhttp.OnDenied(nil), velocityhttp.OnError(nil),
		velocityhttp.Policy(func(r *http.Request) string {
			return map[string]string{"bob": "staff", "eve": "none"}[r.Header.Get("X-User")]
		}),
		velocityhttp.Skip(func(r *http.Request) bool { return r.Header.Get("X-User") == "probe" }),
	)(http.HandlerFunc(hello))
	for user, want := range map[string][]int{
		"alice": {200, 429}, "bob": {200, 200, 429}, "eve": {500}, "probe": {200, 200, 200},
	} {
		for i, status := range want {
			r := get(h, "192.0.2.1:1", user)
			assert.Equal(t, status, r.StatusCode, "%s %d", user, i)
			assert.Equal(t, user == "alice" || user == "bob", r.Header.Get("RateLimit-Policy") != "", user)
		}
	}
}

func TestMiddleware_handlersAnswerDenialsAndErrors(t *testing.T) {
	l := limiter(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(1)}})
	var failed error
	h := velocityhttp.Middleware(l,
		velocityhttp.Cost(func(r *http.Request) int64 { return int64(len(r.Header.Get("X-User"))) - 1 }),
		velocityhttp.OnDenied(func(w http.ResponseWriter, r *http.Request, result velocity.Result) {
			http.Error(w, fmt.Sprint(r.Header.Get("X-User"), " waits ", result.RetryAfter > 0), http.StatusTeapot)
		}),
		velocityhttp.OnError(func(w http.ResponseWriter, _ *http.Request, err error) {
			failed = err
			w.WriteHeader(http.StatusBadRequest)
		}),
	)(http.HandlerFunc(hello))
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.1:1", "al").StatusCode)
	r := get(h, "192.0.2.1:1", "al")
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	assert.Equal(t, http.StatusTeapot, r.StatusCode)
	assert.Equal(t, "al waits true\n", string(body))
	assert.Equal(t, "0", r.Header.Get("X-RateLimit-Remaining"))
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.1:1", "a").StatusCode, "it costs nothing")
	assert.Equal(t, http.StatusBadRequest, get(h, "192.0.2.1:1", "").StatusCode)
	require.ErrorIs(t, failed, velocity.ErrInvalid)
}

func ExampleMiddleware_options() {
	limiter, err := velocity.New(velocity.Config{
		Limits:   []velocity.Limit{velocity.PerMinute(100)},
		Policies: []velocity.Policy{{Name: "uploads", Limits: []velocity.Limit{velocity.PerMinute(1)}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	limit := velocityhttp.Middleware(limiter,
		velocityhttp.Key(func(r *http.Request) string { user, _, _ := r.BasicAuth(); return user }), // a handler before has checked the password
		velocityhttp.Policy(func(r *http.Request) string {
			if r.Method == http.MethodPut {
				return "uploads"
			}
			return "" // the limiter's own
		}),
		velocityhttp.Skip(func(r *http.Request) bool { return r.URL.Path == "/healthz" }),
		velocityhttp.OnDenied(func(w http.ResponseWriter, _ *http.Request, result velocity.Result) {
			switch {
			case result.Unavailable: // the store failed, and the policy is Closed
				http.Error(w, "try again soon", http.StatusServiceUnavailable)
			case result.RetryAfter == velocity.Never: // it costs more than the capacity
				http.Error(w, "the request is too large", http.StatusTooManyRequests)
			default: // Retry-After is in the header already, in seconds, rounded up
				http.Error(w, "again in "+w.Header().Get("Retry-After")+" s", http.StatusTooManyRequests)
			}
		}),
	)
	handler := limit(http.HandlerFunc(hello))
	for range 2 {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodPut, "/file", nil))
		fmt.Println(answer.Code, strings.TrimSpace(answer.Body.String()))
	}
	// Output:
	// 200 hello
	// 429 again in 60 s
}

func ExampleMiddleware() {
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(5).Burst(10)}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", hello)
	server := httptest.NewServer(velocityhttp.Middleware(limiter)(mux)) // or http.ListenAndServe
	defer server.Close()

	r, err := http.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = r.Body.Close()
	fmt.Println(r.StatusCode, r.Header.Get("X-RateLimit-Remaining"), r.Header.Get("RateLimit-Policy"))
	// Output: 200 9 "default";q=10;w=2
}
