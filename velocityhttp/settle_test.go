package velocityhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocityhttp"
)

// A team's and a key's tokens are settled, however the handler ends. The requests, which are counted without Cost, are not.
func TestSettle_byTheMiddlewaresWithCost(t *testing.T) {
	quota := func() *velocity.Limiter {
		return limiter(t, velocity.Config{Limits: []velocity.Limit{velocity.Quota(1000, velocity.Year), velocity.Concurrent(5).Named("parallel")}})
	}
	requests, team, key := quota(), quota(), quota()
	estimate := velocityhttp.Cost(func(*http.Request) int64 { return 50 })
	limit := func(h http.Handler) http.Handler {
		return velocityhttp.Middleware(requests)(velocityhttp.Middleware(team, estimate)(velocityhttp.Middleware(key, estimate)(h)))
	}
	s := httptest.NewServer(limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text := r.URL.Query().Get("cost"); text != "" {
			actual, err := strconv.ParseInt(text, 10, 64)
			assert.NoError(t, err)
			assert.NoError(t, velocity.Settle(r.Context(), 700), "the last call counts")
			assert.NoError(t, velocity.Settle(r.Context(), actual))
		}
		switch r.URL.Path {
		case "/panic":
			panic(http.ErrAbortHandler)
		case "/fails":
			w.WriteHeader(http.StatusBadGateway)
		}
	})))
	defer s.Close()
	once := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // on a connection that was used it would ask again
	for _, c := range []struct {
		target string
		cost   int64
	}{
		{"/?cost=20", 20},
		{"/?cost=130", 130},
		{"/?cost=0", 0},
		{"/", 50},
		{"/fails?cost=0", 0},
		{"/fails", 50},
		{"/panic?cost=20", 50},
		{"/panic?cost=60", 60},
		{"/panic", 50},
	} {
		before := spent(t, requests, team, key)
		if res, err := once.Get(s.URL + c.target); err == nil {
			require.NoError(t, res.Body.Close())
		}
		want := []int64{before[0] + 1, before[1] + c.cost, before[2] + c.cost}
		assert.EventuallyWithT(t, func(t *assert.CollectT) { // the answer may come before the settlement
			assert.Equal(t, want, spent(t, requests, team, key))
		}, 20*time.Second, time.Millisecond, c.target)
	}
}

// spent returns how many tokens of 1000 a client on this machine has spent of each limiter.
func spent(t require.TestingT, limiters ...*velocity.Limiter) []int64 {
	var all []int64
	for _, l := range limiters {
		r, err := l.Peek(context.Background(), "127.0.0.1")
		require.NoError(t, err)
		all = append(all, 1000-r.Remaining)
	}
	return all
}

func TestSettle_withoutCostIsAnError(t *testing.T) {
	l := limiter(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(100)}})
	var failed error
	report := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { failed = velocity.Settle(r.Context(), 5) })
	get(velocityhttp.Middleware(l)(report), "192.0.2.1:1", "")
	require.ErrorIs(t, failed, velocity.ErrInvalid)
	all := velocityhttp.Skip(func(*http.Request) bool { return true })
	get(velocityhttp.Middleware(l, all, velocityhttp.Cost(func(*http.Request) int64 { return 9 }))(report), "192.0.2.1:1", "")
	require.ErrorIs(t, failed, velocity.ErrInvalid)
}

// A handler that asks a model does not know the cost before the answer is there.
func ExampleCost() {
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{
		velocity.Quota(10_000, velocity.Year).Named("tokens"),
		velocity.PerMinute(60).WithCost(1).Named("requests"), // each request counts one
		velocity.Concurrent(5).Named("parallel"),
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	limit := velocityhttp.Middleware(limiter, velocityhttp.Cost(func(*http.Request) int64 { return 1000 })) // an estimate
	handler := limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "the answer")
		if err := velocity.Settle(r.Context(), 217); err != nil { // what the model reports
			fmt.Println(err)
		}
	}))

	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/", http.NoBody))
	r, err := limiter.Peek(context.Background(), "192.0.2.1") // the address that httptest sets
	fmt.Print(answer.Code, " ", answer.Body)
	fmt.Println(r.Remaining, "of", r.Limit, err)
	// Output:
	// 200 the answer
	// 9783 of 10000 <nil>
}
