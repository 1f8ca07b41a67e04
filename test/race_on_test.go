//go:build race

package test

// raceFlags builds the service as the tests themselves are built: a race in it ends in a report on stderr, which no
// test accepts.
var raceFlags = []string{"-race"}
