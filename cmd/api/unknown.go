package main

import (
	"slices"
	"strings"
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

// nearestSetting allows one slip in about four characters after the prefix.
func nearestSetting(name string, settings []setting) string {
	nearest, least := "", (len(name)-len(prefix))/4+1
	for _, s := range settings {
		if d := editDistance(name, s.name); d <= least {
			nearest, least = s.name, d-1
		}
	}
	return nearest
}

// editDistance is Levenshtein's: how many characters must be inserted, deleted or replaced.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
