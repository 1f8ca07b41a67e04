// Package velocityhttp puts a limiter in front of a net/http server.
package velocityhttp

import (
	"net/http"

	"github.com/velocity-limiter/velocity"
)

// Option adjusts [Middleware].
type Option func(*middleware)

// Key says who a request counts for; without it the connection's peer. It must not believe a header that the client can
// write, as X-Forwarded-For, unless a proxy of yours has set it. An empty key counts for the peer.
func Key(key func(*http.Request) string) Option { return func(m *middleware) { m.key = key } }

// Cost says how many tokens a request costs; without it one.
func Cost(cost func(*http.Request) int64) Option { return func(m *middleware) { m.cost = cost } }

type middleware struct {
	limiter *velocity.Limiter
	key     func(*http.Request) string
	cost    func(*http.Request) int64
}

// Middleware returns what wraps a handler. A request that may pass goes on, with header fields on its answer that tell
// what was decided; another is answered here with a problem detail: 429, or 503 where the store failed and the policy is
// closed. A request that cannot be decided gets 500, and is never let through.
func Middleware(limiter *velocity.Limiter, options ...Option) func(http.Handler) http.Handler {
	m := &middleware{
		limiter: limiter,
		key:     func(*http.Request) string { return "" },
		cost:    func(*http.Request) int64 { return 1 },
	}
	for _, set := range options {
		set(m)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if m.allow(w, r) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// allow decides a request, and answers it if it may not pass.
func (m *middleware) allow(w http.ResponseWriter, r *http.Request) bool {
	key := m.key(r)
	if key == "" {
		key = velocity.Address(r.RemoteAddr)
	}
	result, err := m.limiter.Take(r.Context(), key, m.cost(r))
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return false
	}
	result.HeaderFields(w.Header().Set)
	if result.Allowed {
		return true
	}
	status, body := result.Problem()
	w.Header().Set("Content-Type", velocity.ProblemType)
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone is told nothing
	return false
}
