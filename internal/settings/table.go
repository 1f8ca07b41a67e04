package settings

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
)

// WriteTable lists every setting with its default and its meaning, as plain text.
func WriteTable(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "  NAME\tDEFAULT\tMEANING")
	for _, s := range settingsOf(new(Config)) {
		_, _ = fmt.Fprintf(table, "  %s\t%s\t%s\n", s.name, cmp.Or(s.fallback, "-"), s.meaning)
	}
	_ = table.Flush()
}

// UnknownVariable is an environment variable with the prefix of the settings that is not one of them.
type UnknownVariable struct {
	Name    string
	Nearest string // the setting with the most similar name; empty if none is similar
}

// Unknown returns the unknown variables of an environment. They deserve a warning, not an error: for a service called
// velocity, Kubernetes itself sets variables such as VELOCITY_PORT and VELOCITY_SERVICE_HOST.
func Unknown(environ []string) []UnknownVariable {
	var known []string
	for _, s := range settingsOf(new(Config)) {
		short, prefixed := strings.CutPrefix(s.name, prefix)
		if prefixed {
			known = append(known, short)
		}
		if prefixed && s.isSecret() {
			known = append(known, short+fileSuffix)
		}
	}
	var found []UnknownVariable
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		short, prefixed := strings.CutPrefix(name, prefix)
		if !prefixed || slices.Contains(known, short) {
			continue
		}
		v := UnknownVariable{Name: name}
		if nearest := policyfile.Nearest(short, known); nearest != "" {
			v.Nearest = prefix + nearest
		}
		found = append(found, v)
	}
	return found
}
