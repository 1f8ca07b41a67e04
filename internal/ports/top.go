package ports

import "time"

// TopSource knows the clients that asked most and were denied most of late. Safe for concurrent use.
type TopSource interface {
	// Top reports at most n clients of each kind, for each policy that decided anything in the window.
	Top(n int) TopReport
}

// TopReport is about the last minute. Numbers of clients are estimates: the true one is at most Count, and at least
// Count - Error. Sums are exact.
type TopReport struct {
	// Window is how much time the report is about.
	Window time.Duration
	// Policies are sorted by name.
	Policies []TopPolicy
}

// TopPolicy is what happened under one policy.
type TopPolicy struct {
	Policy string
	// Requests were decided; Denials of them were denied or blocked, or would have been denied but for shadow mode.
	Requests, Denials uint64
	// ByRequests and ByDenials are the clients with most of each, most first.
	ByRequests, ByDenials []TopClient
}

// TopClient is one client.
type TopClient struct {
	// Key and Source name the client as ClientID does. A long key is cut.
	Key, Source string
	Count       uint64
	Error       uint64
}
