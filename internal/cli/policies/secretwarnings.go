package policies

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// printSecretWarnings warns of keys whose values look like secrets and are not said to be, and of the secret that is not known here.
func printSecretWarnings(w io.Writer, policies []*policy.Policy, shared []*policy.Shared) {
	all := slices.Clone(policies)
	for _, s := range shared {
		all = append(all, s.Policy())
	}
	secret := map[clientkey.Source]bool{} // the sources that a policy says are secret
	for _, p := range all {
		for _, source := range ownSources(p) {
			if source.Secret() {
				secret[source.Public()] = true
			}
		}
	}
	var order []clientkey.Source
	open := map[clientkey.Source][]string{} // the policies under which a source is not secret that should perhaps be
	for _, p := range all {
		for _, source := range ownSources(p) {
			if source.Secret() || !secret[source] && !looksSecret(source) {
				continue
			}
			if open[source] == nil {
				order = append(order, source)
			}
			open[source] = append(open[source], p.Name)
		}
	}
	for _, source := range order {
		why := "looks like a secret"
		if secret[source] {
			why = "is secret under another policy"
		}
		_, _ = fmt.Fprintf(w, "warning: %s: the key %s %s, and the store, logs and pages hold it as it is: write { from: %[2]s, secret: true }: docs/policies.md#secret-keys\n",
			someOf(open[source]), source, why)
	}
	if text := unknownSecret(all, "a service with this file does not start without it"); text != "" {
		_, _ = fmt.Fprintln(w, "hint: "+text)
	}
}

// ownSources returns the sources of a policy's keys, each once, but for those of shared limits.
func ownSources(p *policy.Policy) (sources []clientkey.Source) {
	for _, g := range p.Groups() {
		for _, source := range g.Key.Sources() {
			if g.Shared == nil && !slices.Contains(sources, source) {
				sources = append(sources, source)
			}
		}
	}
	return sources
}

// secretWords are parts of the names of headers and parameters that hold secrets, and secretNames whole names. Many other names end in
// key, such as Idempotency-Key, so that word alone is no part.
var (
	secretWords = []string{
		"apikey", "authkey", "accesskey", "clientkey", "functionskey", "subscriptionkey", "signature",
		"token", "secret", "session", "password", "passwd", "authorization", "credential",
	}
	secretNames = []string{"key", "xauth", "sig"}
)

// looksSecret reports whether the values of a source are probably secrets. A cookie is, since those by which clients can be
// distinguished are those of sessions.
func looksSecret(s clientkey.Source) bool {
	switch s.Kind {
	case clientkey.SourceCookie:
		return true
	case clientkey.SourceHeader, clientkey.SourceQuery:
		name := strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(s.Name))
		isPart := func(word string) bool { return strings.Contains(name, word) }
		return slices.Contains(secretNames, name) || slices.ContainsFunc(secretWords, isPart)
	default:
		return false
	}
}
