// Package faults tests Velocity while its store fails. It holds only tests, behind the build tag faults, because they
// take minutes. `make test-faults` injects one fault at a time, `make soak` injects several at once for a long time, and
// `make reliability` measures the table of docs/reliability.md.
//
// The servers are real processes. Between them and the store is toxiproxy, or a proxy that changes replies. A recorder
// writes down every operation with its answer, and package invariant checks the records. The checker knows nothing
// about the faults, and the faults know nothing about the checker.
package faults
