package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/velocity-limiter/velocity/internal/domain"
)

const validateUsage = `Usage: api validate FILE

Checks a policy file. A file that is right is printed as a table, and the exit code is 0; of any other, everything that
is wrong is printed with its line and column, and the exit code is 1.

FILLS IN is the time in which an empty bucket fills. AT MOST is what can pass in any stretch as long as the rate's own:
a full bucket, and what is refilled meanwhile. So 10000/24h with a capacity of 10000 lets 20000 pass in one day.
`

func runValidate(_ context.Context, args []string, s streams) int {
	f := newFlags("validate", validateUsage)
	rest, code, done := parseFlags(f, args, s)
	switch {
	case done:
		return code
	case len(rest) != 1:
		return s.misuse(f.Name(), errors.New("one policy file must be named"))
	}
	set, err := loadPolicies(rest[0])
	if err != nil {
		return s.failAll(err)
	}
	printPolicies(s.out, set.All())
	return exitOK
}

// printPolicies prints a line for each limit, and what is odd about the policies.
func printPolicies(w io.Writer, policies []*domain.Policy) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "POLICY\tMATCH\tKEY\tLIMIT\tRATE\tCAPACITY\tFILLS IN\tAT MOST")
	limits := 0
	for _, p := range policies {
		name, match := p.Name, matchText(&p.Match)
		for i := range p.Limits {
			printLimit(table, name, match, keyOfLimit(p, &p.Limits[i]), &p.Limits[i], "")
			name, match = "", ""
			limits++
		}
		for i := range p.Overrides {
			o := &p.Overrides[i]
			for j := range o.Limits {
				printLimit(table, "", "", keyOfLimit(p, &o.Limits[j]), &o.Limits[j], " for "+someOf(o.Keys))
			}
		}
	}
	_ = table.Flush()
	_, _ = fmt.Fprintln(w)
	for _, p := range policies {
		printRemarks(w, p)
	}
	for i, p := range policies {
		if earlier := hiddenBy(p, policies[:i]); earlier != nil {
			_, _ = fmt.Fprintf(w, "warning: %s never applies: %s, which stands before it, takes all its requests\n", p.Name, earlier.Name)
		}
	}
	_, _ = fmt.Fprintf(w, "valid: %s, %s\n", plural(len(policies), "policy", "policies"), plural(limits, "limit", "limits"))
}

func printLimit(w io.Writer, policy, match string, key domain.Key, l *domain.Limit, whom string) {
	refill, per := l.Rate()
	_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%d in %s\n", policy, match, key, l.Name()+whom,
		domain.FormatRate(refill, per), l.Capacity(), shortDuration(l.FillTime()), l.Capacity()+refill, shortDuration(per))
}

// printRemarks tells what the table has no room for.
func printRemarks(w io.Writer, p *domain.Policy) {
	var parts []string
	add := func(when bool, format string, args ...any) {
		if when {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(p.Mode == domain.ModeShadow, "shadow mode, nobody is denied")
	add(p.Cost.Header != "", "the header %s says the cost", p.Cost.Header)
	add(p.Cost.Tokens() > 1, "a request costs %d", p.Cost.Tokens())
	add(len(p.Block) > 0, "blocked: %s", someOf(p.Block))
	add(len(p.Exempt) > 0, "exempt: %s", someOf(p.Exempt))
	add(!p.RefundOn.Empty(), "tokens come back after some statuses")
	add(p.OnStoreFailure != domain.FailOpen, "while the store fails: %s", p.OnStoreFailure)
	if len(parts) > 0 {
		_, _ = fmt.Fprintf(w, "%s: %s\n", p.Name, strings.Join(parts, "; "))
	}
}

// keyOfLimit is the key that a limit counts by.
func keyOfLimit(p *domain.Policy, l *domain.Limit) domain.Key {
	if own, found := p.LimitKeys[l.Name()]; found {
		return own
	}
	return p.OwnKey()
}

// matchText writes a match on one line: GET,POST api.example.com/search/**.
func matchText(m *domain.Match) string {
	if m.ForEnvoy() {
		entries := make([]string, len(m.Descriptor))
		for i := range m.Descriptor {
			entries[i] = m.Descriptor[i].String()
		}
		return "domain " + m.Domain + " [" + strings.Join(entries, ", ") + "]"
	}
	path := m.Path
	if path == "" {
		path = "/**"
	}
	return strings.TrimLeft(strings.Join(m.Methods, ",")+" "+m.Host+path, " ")
}

// someOf names the first of a list.
func someOf(list []string) string {
	const most = 3
	text := strings.Join(list[:min(len(list), most)], ", ")
	if more := len(list) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
