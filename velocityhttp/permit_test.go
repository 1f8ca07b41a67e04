package velocityhttp_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocityhttp"
)

// held reports whether the only permit is held.
func held(t *testing.T, l *velocity.Limiter) bool {
	t.Helper()
	r, err := l.Peek(t.Context(), "127.0.0.1")
	require.NoError(t, err)
	return r.Remaining == 0
}

func TestPermit_endsWithTheHandler(t *testing.T) {
	l := limiter(t, velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(1)}})
	begun, end := make(chan context.Context, 1), make(chan struct{})
	s := httptest.NewServer(velocityhttp.Middleware(l)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		begun <- r.Context()
		<-end
		if r.URL.Path == "/panic" {
			panic(http.ErrAbortHandler)
		}
	})))
	defer s.Close()
	for _, path := range []string{"/", "/panic", "/leaves"} {
		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, http.NoBody)
		require.NoError(t, err)
		over := make(chan struct{})
		go func() {
			defer close(over)
			once := &http.Transport{DisableKeepAlives: true} // on a connection that was used it would ask again
			if res, err := once.RoundTrip(req); err == nil {
				_ = res.Body.Close()
			}
		}()
		handler := <-begun
		assert.True(t, held(t, l), path)
		res, err := http.Get(s.URL)
		require.NoError(t, err)
		assert.Equal(t, http.StatusTooManyRequests, res.StatusCode)
		assert.Equal(t, "1", res.Header.Get("Retry-After"))
		require.NoError(t, res.Body.Close())
		if path == "/leaves" {
			leave()
			<-handler.Done()
			time.Sleep(20 * time.Millisecond)
			assert.True(t, held(t, l), "a client that leaves cannot begin more than its limit")
		}
		end <- struct{}{}
		assert.Eventually(t, func() bool { return !held(t, l) }, 5*time.Second, time.Millisecond, path)
		<-over
		leave()
	}
}

// A client that leaves while its request waits ends the wait; the handler is not called.
func TestWaiting_beforeTheHandler(t *testing.T) {
	l := limiter(t, velocity.Config{Policies: []velocity.Policy{{
		Name: "default", Limits: []velocity.Limit{velocity.PerSecond(2).Burst(1).Named("rate"), velocity.Concurrent(2).Named("parallel")},
		MaxWait: 10 * time.Second,
	}}})
	var called []string
	failed, arrived := make(chan error, 1), make(chan struct{}, 3)
	s := httptest.NewServer(velocityhttp.Middleware(l,
		velocityhttp.Skip(func(*http.Request) bool { arrived <- struct{}{}; return false }),
		velocityhttp.OnError(func(_ http.ResponseWriter, _ *http.Request, err error) { failed <- err }),
	)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { called = append(called, r.URL.Path) })))
	defer s.Close()
	began := time.Now()
	for _, path := range []string{"/first", "/second"} {
		res, err := http.Get(s.URL + path)
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, res.StatusCode)
		require.NoError(t, res.Body.Close())
	}
	assert.GreaterOrEqual(t, time.Since(began), 490*time.Millisecond, "the second has waited")
	_, err := l.Charge(t.Context(), "127.0.0.1", 10)
	require.NoError(t, err, "the third's turn is in five seconds")
	<-arrived
	<-arrived
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-arrived
		time.Sleep(50 * time.Millisecond)
		leave()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/third", http.NoBody)
	require.NoError(t, err)
	_, err = http.DefaultTransport.RoundTrip(req)
	require.Error(t, err)
	require.ErrorIs(t, <-failed, context.Canceled)
	assert.Equal(t, []string{"/first", "/second"}, called)
}
