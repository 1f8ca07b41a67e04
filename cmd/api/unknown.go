package main

import (
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
)

// unknownSetting is a variable that looks like a setting and is none.
type unknownSetting struct {
	name    string
	nearest string // the setting that was probably meant; empty if none is close
}

// unknownSettings finds the variables of an environment that have our prefix and no meaning. They are worth a
// warning and no more: Kubernetes makes variables such as VELOCITY_PORT and VELOCITY_SERVICE_HOST by itself for a
// service that is called velocity.
func unknownSettings(environ []string, settings []setting) []unknownSetting {
	var found []unknownSetting
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		known := slices.ContainsFunc(settings, func(s setting) bool { return s.name == name })
		if strings.HasPrefix(name, prefix) && !known {
			found = append(found, unknownSetting{name: name, nearest: nearestSetting(name, settings)})
		}
	}
	return found
}

// nearestSetting compares what follows the prefix.
func nearestSetting(name string, settings []setting) string {
	var known []string
	for _, s := range settings {
		if short, ours := strings.CutPrefix(s.name, prefix); ours {
			known = append(known, short)
		}
	}
	nearest := policyfile.Nearest(strings.TrimPrefix(name, prefix), known)
	if nearest == "" {
		return ""
	}
	return prefix + nearest
}
