package main

import (
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
)

// loadPolicies reads a policy file for a command that looks at it; the service itself watches its own.
func loadPolicies(path string) (*policyfile.Set, error) {
	set, err := policyfile.Load(path, policyfile.Options{})
	if err != nil {
		return nil, fileErrors(path, err)
	}
	return set, nil
}

// failAll prints what is wrong, a line for each, and is the exit code for it.
func (s streams) failAll(err error) int {
	for _, e := range violations(err) {
		_, _ = fmt.Fprintln(s.err, e)
	}
	return exitFailed
}

// shortDuration writes a duration without parts that are zero: 24h, 1h30m, 90s as 1m30s.
func shortDuration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if len(text) > len(zero) && text[len(text)-len(zero):] == zero {
			text = text[:len(text)-len(zero)+1]
		}
	}
	return text
}
