// Package velocityhttp puts a limiter in front of a net/http server.
//
// Packages velocitygrpc and velocityfiber have the same options, for their servers.
package velocityhttp

import (
	"log/slog"
	"net/http"

	"github.com/velocity-limiter/velocity"
)

// Option adjusts [Middleware]. Its functions are called by the goroutines of requests, so they must be safe for concurrent use. A nil
// Option or function changes nothing.
type Option func(*middleware)

// Key sets the function that returns the key of a request. Without it, or if the key is empty, a request counts for the address
// of the connection's peer. The function must not use a header that clients can set, such as X-Forwarded-For, unless a proxy
// of yours sets it.
func Key(key func(*http.Request) string) Option { return func(m *middleware) { m.key = key } }

// Cost sets the function that returns the cost of a request in tokens. Without it a request costs one token. A request of cost
// 0 passes, and a negative cost is an error. If the cost is an estimate, the handler reports by [velocity.Settle], with the request's
// context, what it was in the end.
func Cost(cost func(*http.Request) int64) Option { return func(m *middleware) { m.cost = cost } }

// Policy sets the function that returns the name of the policy for a request. Without it, or if the name is empty, the policy
// of the limiter applies. A name without a policy is an error. If all requests have one policy, give its limiter, from
// [velocity.Limiter.Policy], to Middleware instead.
func Policy(policy func(*http.Request) string) Option {
	return func(m *middleware) { m.policy = policy }
}

// Skip sets the function that reports whether a request passes without a decision. Its answer gets no header fields.
func Skip(skip func(*http.Request) bool) Option { return func(m *middleware) { m.skip = skip } }

// OnDenied sets the function that answers a request that may not pass. The header of the answer has the fields of the decision
// already. Without it the answer is a problem detail: status 429, or 503 if the store failed and the policy is closed.
func OnDenied(answer func(http.ResponseWriter, *http.Request, velocity.Result)) Option {
	return func(m *middleware) {
		if answer != nil {
			m.onDenied = answer
		}
	}
}

// OnError sets the function that answers a request that could not be decided: its client has gone, its cost is negative, or
// there is no policy of the name that Policy returned. Without it the answer is 500, and the error is logged to slog.Default()
// unless the client has gone.
func OnError(answer func(http.ResponseWriter, *http.Request, error)) Option {
	return func(m *middleware) {
		if answer != nil {
			m.onError = answer
		}
	}
}

type middleware struct {
	limiter  *velocity.Limiter
	key      func(*http.Request) string
	cost     func(*http.Request) int64
	policy   func(*http.Request) string
	skip     func(*http.Request) bool
	onDenied func(http.ResponseWriter, *http.Request, velocity.Result)
	onError  func(http.ResponseWriter, *http.Request, error)
}

// Middleware returns a function that wraps a handler. A request that may pass goes to the handler, and its answer gets the header
// fields of the decision. OnDenied and OnError answer the others.
//
// Under a policy with a concurrency limit a request holds a permit until the handler returns or panics, not only until its client
// leaves: else clients that leave at once could keep any number of handlers busy. Under a policy with
// [velocity.Policy.MaxWait] a request may wait before the handler is called, as in [velocity.Limiter.Acquire].
func Middleware(limiter *velocity.Limiter, options ...Option) func(http.Handler) http.Handler {
	m := &middleware{limiter: limiter, onDenied: problem, onError: internalError}
	for _, set := range options {
		if set != nil {
			set(m)
		}
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if m.skip != nil && m.skip(r) {
				next.ServeHTTP(w, r)
				return
			}
			permit, err := m.acquire(r)
			if err != nil {
				m.onError(w, r, err)
				return
			}
			defer permit.Abort() // if the handler panics
			permit.HeaderFields(w.Header().Set)
			switch {
			case !permit.Allowed:
				m.onDenied(w, r, permit.Result)
			case m.cost != nil:
				next.ServeHTTP(w, r.WithContext(velocity.WithPermit(r.Context(), permit)))
			default:
				next.ServeHTTP(w, r)
			}
			permit.Release()
		})
	}
}

func (m *middleware) acquire(r *http.Request) (*velocity.Permit, error) {
	limiter, key, cost := m.limiter, "", int64(1)
	if m.key != nil {
		key = m.key(r)
	}
	if m.cost != nil {
		cost = m.cost(r)
	}
	name := ""
	if m.policy != nil {
		name = m.policy(r)
	}
	if name != "" {
		var err error
		if limiter, err = limiter.Policy(name); err != nil {
			return nil, err
		}
	}
	if key == "" {
		key = velocity.Address(r.RemoteAddr)
	}
	permit, err := limiter.Acquire(r.Context(), key, cost)
	if err == nil && !permit.Detach() { // a handler that goes on after its client has left still holds the permit
		err = r.Context().Err()
	}
	return permit, err
}

func problem(w http.ResponseWriter, _ *http.Request, result velocity.Result) {
	status, body := result.Problem()
	w.Header().Set("Content-Type", velocity.ProblemType)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the error means that the client has disconnected
}

func internalError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		slog.ErrorContext(r.Context(), "velocity: a request could not be decided", "error", err)
	}
	http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
}
