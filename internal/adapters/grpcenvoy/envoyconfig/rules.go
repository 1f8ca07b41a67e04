// Package envoyconfig reads the configuration files of envoyproxy/ratelimit, so that a team that uses that service can keep
// them.
//
// A configuration is a tree of descriptors for each domain, with limits of requests_per_unit in a unit. Here such a limit is a
// token bucket with this capacity, which refills as much in a unit, or a quota of each window of the unit. Anything that is
// not supported is an error with file, line and column; nothing is ignored.
package envoyconfig

import (
	"fmt"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// Rules is a whole configuration. It is immutable. The zero value has no domain.
type Rules struct {
	domains map[string]*node
	size    int
	version string
}

// Options apply to all rules.
type Options struct {
	// Quotas makes each limit a quota of each window of its unit. Otherwise a limit is a token bucket.
	Quotas         bool
	OnStoreFailure policy.FailureMode
}

// Rule is the rate_limit of a descriptor.
type Rule struct {
	// Name is the rule's name, and Replaces are the names of rules that do not apply to a request to which this rule applies.
	Name     string
	Replaces []string
	// Unlimited says that the rule limits nothing.
	Unlimited bool
	// Shadow says that the rule decides and counts, but lets every request pass.
	Shadow bool
	Rate   Rate
	// Quota says that the limit is a quota. Otherwise it is a token bucket.
	Quota bool
	// Policy decides. It is nil if the rule is Unlimited or its Rate has no requests.
	Policy *policy.Policy

	shared []string // by index of the entry: the pattern, if its values share a bucket; else ""
}

// Entries appends the entries that name the bucket of a descriptor: the domain, then the descriptor's entries. If all values of
// a wildcard share a bucket, the pattern takes the place of the value.
func (r *Rule) Entries(dst []policy.DescriptorEntry, domainName string, entries []policy.DescriptorEntry) []policy.DescriptorEntry {
	dst = append(dst, policy.DescriptorEntry{Key: "domain", Value: domainName})
	for i, e := range entries {
		if i < len(r.shared) && r.shared[i] != "" {
			e.Value = r.shared[i]
		}
		dst = append(dst, e)
	}
	return dst
}

// Rate is a number of requests in a unit of time.
type Rate struct {
	Requests uint32
	Unit     Unit
}

// Unit is a unit of time. The zero value is not valid.
type Unit uint8

// The units. A month has 30 days and a year 365, as in envoyproxy/ratelimit.
const (
	_ Unit = iota
	Second
	Minute
	Hour
	Day
	Week
	Month
	Year
)

const day = 24 * time.Hour

var units = [...]struct {
	name   string
	span   time.Duration
	period string // of a quota: the span, as calendar.Parse reads it
}{
	Second: {"second", time.Second, "1s"},
	Minute: {"minute", time.Minute, "1m"},
	Hour:   {"hour", time.Hour, "1h"},
	Day:    {"day", day, "24h"},
	Week:   {"week", 7 * day, "168h"},
	Month:  {"month", 30 * day, "720h"},
	Year:   {"year", 365 * day, "8760h"},
}

// parseUnit reads the name of a unit, in upper or lower case.
func parseUnit(s string) (Unit, bool) {
	for u := Second; u <= Year; u++ {
		if strings.EqualFold(units[u].name, s) {
			return u, true
		}
	}
	return 0, false
}

// String returns the name in configuration files.
func (u Unit) String() string { return units[u].name }

// Span returns the length of the unit.
func (u Unit) Span() time.Duration { return units[u].span }

// UntilWindowEnds returns how long after now the window of the unit ends, rounded up to a second, so at least one second.
// Windows follow each other from 1970 on. Both are as in envoyproxy/ratelimit.
func (u Unit) UntilWindowEnds(now domain.Instant) time.Duration {
	span := u.Span().Microseconds()
	left := time.Duration(span-int64(now)%span) * time.Microsecond
	return (left + time.Second - 1).Truncate(time.Second)
}

// Rule returns a rule with this rate, whose policy has the given name.
func (r Rate) Rule(name string, options Options) (*Rule, error) {
	rule := &Rule{Rate: r}
	return rule, rule.complete(name, options)
}

// limit returns a quota of each window of the unit, or a bucket that holds the requests and refills as many in a unit.
func (r Rate) limit(quota bool) (domain.Limit, error) {
	requests := domain.Tokens(r.Requests)
	if !quota {
		return domain.NewBucket(limitName, requests, requests, r.Unit.Span())
	}
	periods, err := calendar.Parse(units[r.Unit].period, "", "")
	if err != nil {
		return domain.Limit{}, err
	}
	return domain.NewQuota(limitName, requests, periods)
}

// limitName is the name of a rule's limit. Clients do not see it, but the buckets in the store have it.
const limitName = "default"

// complete makes the policy, unless the rule is unlimited or lets nothing pass.
func (r *Rule) complete(name string, options Options) error {
	r.Quota = options.Quotas
	if r.Unlimited || r.Rate.Requests == 0 {
		return nil
	}
	limit, err := r.Rate.limit(r.Quota)
	if err != nil {
		return fmt.Errorf("%d per %s: %w", r.Rate.Requests, r.Rate.Unit, err)
	}
	r.Policy = &policy.Policy{
		Name: name, Key: clientkey.Key{{Kind: clientkey.SourceDescriptor}}, Limits: []domain.Limit{limit},
		OnStoreFailure: options.OnStoreFailure,
	}
	if r.Shadow {
		r.Policy.Mode = policy.ModeShadow
	}
	return r.Policy.Compile()
}

// node is a node in the tree of a domain.
type node struct {
	exact     map[entry]*node
	wildcards []wildcard       // in the order of the file
	any       map[string]*node // descriptors without a value, by key
	rule      *Rule
}

type entry struct{ key, value string }

type wildcard struct {
	key, prefix string
	to          *node
}

// next returns the node for an entry: the one with the exact value, else the first wildcard that matches, else the one with the
// key only.
func (n *node) next(e policy.DescriptorEntry) *node {
	if to := n.exact[entry{e.Key, e.Value}]; to != nil {
		return to
	}
	for i := range n.wildcards {
		if w := &n.wildcards[i]; w.key == e.Key && strings.HasPrefix(e.Value, w.prefix) {
			return w.to
		}
	}
	return n.any[e.Key]
}

// Knows reports whether the configuration has a domain.
func (r *Rules) Knows(domainName string) bool { return r.domains[domainName] != nil }

// Find returns the rule of the node at which a descriptor's entries end. It returns nil if there is none; the descriptor is
// then not limited.
func (r *Rules) Find(domainName string, entries []policy.DescriptorEntry) *Rule {
	n := r.domains[domainName]
	for i := 0; n != nil && i < len(entries); i++ {
		n = n.next(entries[i])
	}
	if n == nil || len(entries) == 0 {
		return nil
	}
	return n.rule
}

// Len returns the number of rules.
func (r *Rules) Len() int { return r.size }

// Version returns a short hash of the files' names and content. It is empty if there are no files.
func (r *Rules) Version() string { return r.version }
