// Package metrics counts what happens, for Prometheus and for the operator's page: both read the same counters.
//
// Labels come from sets that the operator or this program bounds: policies in force, outcomes, stores, shards. No
// label is ever a client, a key or a path, so the size of the exposition does not depend on what clients send.
package metrics
