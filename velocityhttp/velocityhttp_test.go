package velocityhttp_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

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
	assert.Contains(t, string(body), `"status":429`)
	assert.Contains(t, string(body), `"policy":"default","violated-policies":["default"]`)
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.2:1", "").StatusCode)
}

func TestMiddleware_keyAndCostAreTheApps(t *testing.T) {
	l := limiter(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(3)}})
	h := velocityhttp.Middleware(l,
		velocityhttp.Key(func(r *http.Request) string { return r.Header.Get("X-User") }),
		velocityhttp.Cost(func(*http.Request) int64 { return 2 }),
	)(http.HandlerFunc(hello))
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.1:1", "alice").StatusCode)
	assert.Equal(t, http.StatusTooManyRequests, get(h, "192.0.2.2:1", "alice").StatusCode)
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.1:1", "bob").StatusCode)
	assert.Equal(t, http.StatusOK, get(h, "192.0.2.1:1", "").StatusCode, "without one, the peer")
	assert.Equal(t, http.StatusTooManyRequests, get(h, "192.0.2.1:2", "").StatusCode)
}

func TestMiddleware_whatCannotBeDecidedDoesNotPass(t *testing.T) {
	l := limiter(t, velocity.Config{
		Limits: []velocity.Limit{velocity.PerHour(3)}, Redis: []string{"127.0.0.1:1"}, Failure: velocity.Closed,
	})
	h := velocityhttp.Middleware(l)(http.HandlerFunc(hello))
	r := get(h, "192.0.2.1:1", "")
	assert.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	assert.Equal(t, "1", r.Header.Get("Retry-After"))
	h = velocityhttp.Middleware(l.Policy("none"))(http.HandlerFunc(hello))
	assert.Equal(t, http.StatusInternalServerError, get(h, "192.0.2.1:1", "").StatusCode)
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
