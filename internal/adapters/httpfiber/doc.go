// Package httpfiber is Velocity's HTTP, on Fiber: the middleware that limits a route, the decision API, the reverse proxy,
// the door that other proxies ask (forward-auth), and the admin plane. It calls the ports Limiter, Inspector and
// HealthChecker, and knows no store and no policy.
//
// What it promises:
//
//   - A request is decided exactly once, under one spelling of its path and one reading of its client's address,
//     so that a limit cannot be passed by spelling either differently.
//   - Every error is a problem (RFC 9457). One table, in errors.go, says which error has which status. An answer
//     holds no stack trace, no address of a store and nothing that belongs to another client.
//   - Strings of Fiber are valid inside the handler alone. What a Limiter is given beyond the request's own life
//     (the value of a key) is a copy.
//
// It does not authenticate end clients: a header that is a policy's key is whatever the client sends.
package httpfiber
