// Package faults holds Velocity to its promises while its store fails. It has tests alone, behind the build tag faults,
// since they take minutes: `make test-faults` breaks one thing at a time, `make soak` several at once and for long, and
// `make reliability` measures every row of the scoreboard in docs/reliability.md.
//
// The nemesis (what breaks servers and connections) knows nothing of the judge (package law), which is told what was
// asked and answered, and nothing of faults. Servers are real processes; what stands between is toxiproxy, or a peer
// that tampers with answers.
package faults
