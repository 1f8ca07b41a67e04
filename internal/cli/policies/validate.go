package policies

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// Validate checks a policy file.
var Validate = command.Command{
	Name: "validate", Args: "FILE", Purpose: "check a policy file and print it as a table",
	Help: `Checks a policy file. If the file is valid, prints it as a table and exits with 0. Otherwise prints every error with its
line and column and exits with 1.

COST is what a request takes from the limit. FULL AGAIN is the time in which an empty bucket fills, or says that a quota is
there again in the next period, and a permit when it is released. AT MOST is what can pass. For a bucket that is in any time
as long as the rate's own: a full bucket, and what is refilled meanwhile. So 10000/24h with a capacity of 10000 lets 20000
pass in one day. For a quota it is in each of its periods. For a concurrency limit it is what can be under way at once.
`,
	Define: func(*flag.FlagSet) command.Action {
		return func(_ context.Context, args []string, s command.Streams) error {
			if len(args) != 1 {
				return command.UsageError{Err: errors.New("one policy file must be named")}
			}
			set, err := loadPolicies(args[0])
			if err == nil {
				warnOfClaims(s.Out, set)
				printPolicies(s.Out, set.All(), set.AllShared())
			}
			return err
		}
	},
}

// warnOfClaims warns of claims in keys that no token can have.
func warnOfClaims(w io.Writer, set *policyfile.Set) {
	if names := set.UsesClaims(); set.JWT == nil && len(names) > 0 {
		_, _ = fmt.Fprintf(w, "warning: the file has no jwt, and a key or a condition of %s has a claim: only callers of the decision API name claims, other requests have none: docs/policies.md#tokens\n\n",
			someOf(names))
	}
}

// loadPolicies reads a policy file.
func loadPolicies(path string) (*policyfile.Set, error) {
	hasher, _, err := keyHasher()
	if err != nil {
		return nil, err
	}
	set, err := policyfile.Load(path, "", policyfile.WithKeySecret(hasher))
	if err != nil {
		return nil, command.ListError{Err: policyfile.WithPath(path, err)}
	}
	return set, nil
}

// printPolicies prints a line for each limit, then remarks, hints and warnings about the policies.
func printPolicies(w io.Writer, policies []*policy.Policy, shared []*policy.Shared) {
	table := command.NewTable(w, "POLICY\tMATCH\tKEY\tLIMIT\tRATE\tCAPACITY\tCOST\tFULL AGAIN\tAT MOST")
	limits, sharing := 0, ""
	for _, s := range shared {
		match := s.Policy().Name + "\tused by " + cmp.Or(someOf(users(s, policies)), "no policy")
		forEachLimit(s.Policy(), func(l *domain.Limit, clients string) {
			printLimit(table, s.Policy(), match, l, clients)
			match = "\t"
		})
		sharing = ", " + command.Plural(len(shared), "shared limit", "shared limits")
	}
	for _, p := range policies {
		match := p.Name + "\t" + matchText(&p.Match)
		forEachLimit(p, func(l *domain.Limit, clients string) {
			printLimit(table, p, match, l, clients)
			match = "\t"
		})
		limits += len(p.Limits)
	}
	_ = table.Flush()
	_, _ = fmt.Fprintln(w)
	for _, s := range shared {
		forEachLimit(s.Policy(), func(l *domain.Limit, clients string) { printQuotaHint(w, s.Policy(), l, clients) })
		if len(users(s, policies)) == 0 {
			_, _ = fmt.Fprintf(w, "warning: no policy uses the shared limit %s\n", s.Name())
		}
	}
	for _, p := range policies {
		printRemarks(w, p)
		forEachLimit(p, func(l *domain.Limit, clients string) { printQuotaHint(w, p, l, clients) })
	}
	for i, p := range policies {
		covers := func(earlier *policy.Policy) bool { return earlier.Match.Covers(&p.Match) }
		if j := slices.IndexFunc(policies[:i], covers); j >= 0 {
			_, _ = fmt.Fprintf(w, "warning: %s never applies: %s, which stands before it, takes all its requests\n", p.Name, policies[j].Name)
		}
	}
	for _, p := range policies {
		printConditionHint(w, p)
		printWaitingHint(w, p)
	}
	printPermitHint(w, policies)
	printSettlingHints(w, policies)
	printSecretWarnings(w, policies, shared)
	printHint(w, policies)
	_, _ = fmt.Fprintf(w, "valid: %s, %s%s\n", command.Plural(len(policies), "policy", "policies"), command.Plural(limits, "limit", "limits"), sharing)
}

// isShared reports whether a policy stands for a shared limit; see [policy.Shared.Policy].
func isShared(p *policy.Policy) bool { return strings.HasPrefix(p.Name, policy.SharedPrefix) }

// users returns the names of the policies that use a shared limit.
func users(s *policy.Shared, policies []*policy.Policy) (names []string) {
	for _, p := range policies {
		if p.Shared[s.Name()] == s {
			names = append(names, p.Name)
		}
	}
	return names
}

// forEachLimit calls f with each limit of a policy, and then with those of its overrides and whom these are for.
func forEachLimit(p *policy.Policy, f func(l *domain.Limit, clients string)) {
	for i := range p.Limits {
		f(&p.Limits[i], "")
	}
	for i := range p.Overrides {
		o := &p.Overrides[i]
		for j := range o.Limits {
			f(&o.Limits[j], " "+o.Clients())
		}
	}
}

// printHint warns of servers that serve one page under several paths. Velocity distinguishes such paths, so that the other
// spellings avoid a policy for a single path.
func printHint(w io.Writer, policies []*policy.Policy) {
	var names []string
	path, other := "", ""
	for _, p := range policies {
		if p.Match.Path == "" || strings.HasSuffix(p.Match.Path, "**") {
			continue
		}
		one := strings.ReplaceAll(p.Match.Path, "*", "1")
		folded := strings.ToUpper(one)
		if folded == one {
			folded = strings.ToLower(one)
		}
		if folded == one {
			continue // it has no letters
		}
		if names = append(names, p.Name); path == "" {
			path, other = one, folded
		}
	}
	if len(names) == 0 {
		return
	}
	matches := " match single paths."
	if len(names) == 1 {
		matches = " matches a single path."
	}
	_, _ = fmt.Fprintf(w, "hint: %s%s If your server takes %s, %s;x=1 or %s%%20 for %s, such requests avoid the policy: docs/policies.md#match\n",
		someOf(names), matches, other, path, path, path)
}

func printLimit(w io.Writer, p *policy.Policy, match string, l *domain.Limit, clients string) {
	name := l.Name()
	if p.Shared[name] != nil {
		name = policy.SharedPrefix + name
	}
	_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", match, keyText(p.KeyOf(l.Name())), name+clients, rateText(l), l.Capacity(),
		costText(p, l), fullAgain(l), atMost(l))
}

// keyText is a key as in a policy file on one line, with its secret sources marked.
func keyText(key clientkey.Key) string {
	var parts []string
	for _, source := range key.Sources() {
		text := source.String()
		if source.Secret() {
			text += " (secret)"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// rateText is the limit as configured, but for a bucket's capacity.
func rateText(l *domain.Limit) string {
	if c := l.Concurrency(); c != nil {
		return c.String()
	}
	return l.Rate()
}

// fullAgain says when everything that was spent is there again.
func fullAgain(l *domain.Limit) string {
	switch q, b := l.Quota(), l.TokenBucket(); {
	case q != nil:
		return "next " + periodName(q)
	case b != nil:
		return "after " + command.ShortDuration(b.FillTime())
	default:
		return "on release"
	}
}

// atMost is what can pass of a quota in one of its periods; of a bucket, in any time as long as that in which it refills; of
// permits, what can be held at once.
func atMost(l *domain.Limit) string {
	switch q, b := l.Quota(), l.TokenBucket(); {
	case q != nil:
		return fmt.Sprintf("%d in each %s", l.Capacity(), periodName(q))
	case b != nil:
		refill, per := b.Rate()
		return fmt.Sprintf("%d in %s", l.Capacity()+refill, command.ShortDuration(per))
	default:
		return l.Rate()
	}
}

// periodName is the period of a quota without its zone and anchor: day, 24h.
func periodName(q *domain.Quota) string {
	name, _, _ := strings.Cut(q.Periods().String(), " ")
	return name
}

// printQuotaHint warns of a bucket that looks as if a quota were meant: one that is refilled completely in a day or longer.
func printQuotaHint(w io.Writer, p *policy.Policy, l *domain.Limit, clients string) {
	b := l.TokenBucket()
	if b == nil || p.Shared[l.Name()] != nil { // a shared limit has its own hint
		return
	}
	refill, per := b.Rate()
	if per < day || l.Capacity() < refill {
		return
	}
	name := p.Name + "/" + l.Name()
	if isShared(p) {
		name = p.Name
	}
	period := command.ShortDuration(per)
	if unit := units[per]; unit != "" {
		period = unit
	}
	_, _ = fmt.Fprintf(w, "hint: %s%s is a bucket, and lets up to %d pass in %s. If %d in each %s are meant, write quota: %[5]d/%[6]s: docs/policies.md#what-per-day-means\n",
		name, clients, l.Capacity()+refill, command.ShortDuration(per), refill, period)
}

// printPermitHint says where policies with a concurrency limit cannot be used.
func printPermitHint(w io.Writer, policies []*policy.Policy) {
	var names []string
	for _, p := range policies {
		if p.ConcurrencyLimit() != "" {
			names = append(names, p.Name)
		}
	}
	if len(names) > 0 {
		_, _ = fmt.Fprintf(w, "hint: forward-auth answers 501 under %s: it cannot tell when a request ends, as concurrency limits need: docs/policies.md#concurrency\n",
			someOf(names))
	}
}

// printWaitingHint warns of permits that are too few for the requests that max_wait would let wait: these hold permits, too.
func printWaitingHint(w io.Writer, p *policy.Policy) {
	if p.MaxWait == 0 || p.Mode == policy.ModeShadow || p.Match.ForEnvoy() {
		return
	}
	most := math.Inf(1) // that pass at once or wait
	for i := range p.Limits {
		if l := &p.Limits[i]; l.TokenBucket() != nil {
			refill, per := l.TokenBucket().Rate()
			lent := float64(refill) * float64(p.MaxWait) / float64(per)
			most = min(most, (float64(l.Capacity())+lent)/float64(max(1, l.CostOf(p.Cost.Tokens()))))
		}
	}
	for i := range p.Limits {
		if l := &p.Limits[i]; l.Concurrency() != nil && float64(l.Capacity()) < math.Floor(most) {
			_, _ = fmt.Fprintf(w, "hint: %s/%s: a waiting request holds a permit, too, and none waits for a permit: beyond %d at once requests are denied, whatever max_wait is: docs/policies.md#waiting\n",
				p.Name, l.Name(), l.Capacity())
		}
	}
}

const day = 24 * time.Hour

// units are the calendar units that are as long as a duration, or nearly so.
var units = map[time.Duration]string{
	day: "day", 7 * day: "week", 30 * day: "month", 31 * day: "month", 365 * day: "year", 366 * day: "year",
}

// printRemarks prints the fields of a policy that the table does not show.
func printRemarks(w io.Writer, p *policy.Policy) {
	var parts []string
	add := func(when bool, format string, args ...any) {
		if when {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(len(p.Cost.Estimate) > 0 || !p.Cost.Actual.IsZero(), "cost: %s", p.Cost.String())
	add(p.MaxWait > 0, "%s", waitText(p))
	add(p.MissingKey == policy.MissingKeyRefuse, "%s", missingKeyText(p))
	add(p.Mode == policy.ModeShadow, "shadow mode, no request is denied")
	add(len(p.Block) > 0, "blocked: %s", someOf(p.Block))
	add(len(p.Exempt) > 0, "exempt: %s", someOf(p.Exempt))
	add(!p.RefundOn.Empty(), "tokens come back if the upstream answers %s", p.RefundOn.String())
	add(p.SkipPreflight, "CORS preflights cost nothing")
	add(p.Denied != nil, "%s", deniedText(p))
	add(p.OnStoreFailure != policy.FailOpen, "while the store fails: %s", p.OnStoreFailure)
	if len(parts) > 0 {
		_, _ = fmt.Fprintf(w, "%s: %s\n", p.Name, strings.Join(parts, "; "))
	}
}

// missingKeyText says what missing_key: refuse means.
func missingKeyText(p *policy.Policy) string {
	if p.Mode == policy.ModeShadow {
		return "missing_key: refuse has no effect in shadow mode"
	}
	return "a request without the key is refused, 401"
}

// waitText says what max_wait means.
func waitText(p *policy.Policy) string {
	switch {
	case p.Match.ForEnvoy():
		return "max_wait has no effect on requests of Envoy"
	case p.Mode == policy.ModeShadow:
		return "max_wait has no effect in shadow mode"
	default:
		return "requests wait for up to " + command.ShortDuration(p.MaxWait) +
			" for tokens that are yet to come, instead of being denied, but not in forward-auth and the built-in /api/resource"
	}
}

// matchText writes a match on one line: GET,POST api.example.com/search/**.
func matchText(m *policy.Match) string {
	if m.ForEnvoy() {
		entries := make([]string, len(m.Descriptor))
		for i := range m.Descriptor {
			entries[i] = m.Descriptor[i].String()
		}
		return "domain " + m.Domain + " [" + strings.Join(entries, ", ") + "]"
	}
	text := strings.TrimLeft(strings.Join(m.Methods, ",")+" "+m.Host+cmp.Or(m.Path, "/**"), " ")
	if len(m.Headers) > 0 {
		text += " where " + policy.ConditionsText(m.Headers)
	}
	return text
}

// someOf joins the first elements of a list, and counts the others.
func someOf(list []string) string {
	const most = 3
	text := strings.Join(list[:min(len(list), most)], ", ")
	if more := len(list) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
