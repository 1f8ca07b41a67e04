// Package envoyconfig reads the configuration files of envoyproxy/ratelimit, so that a team which runs that service can
// keep them.
//
// A configuration is a tree of descriptors for each domain, whose limits are `requests_per_unit` in a `unit`. Here such a
// limit is a token bucket: of that capacity, refilled by as much per unit. What cannot be honoured is refused, with the
// file, line and column; nothing is passed over.
package envoyconfig

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Rules is a whole configuration. It is immutable.
type Rules struct {
	domains map[string]*node
	size    int
}

// Rule is what a descriptor's `rate_limit` says.
type Rule struct {
	// Name and Replaces are the file's: where two descriptors of one request apply, the one that replaces the other's
	// name stands alone.
	Name     string
	Replaces []string
	// Unlimited says that the rule limits nothing, and only makes the descriptor a known one.
	Unlimited bool
	// Shadow says that the rule decides and counts, and always lets pass.
	Shadow bool
	Quota  Quota
	// Policy decides. Nil: there is nothing to decide, since the rule is Unlimited or its Quota lets nothing pass.
	Policy *domain.Policy

	shared []string // by place of the entry: the value that stands for all that its wildcard takes; "": its own
}

// Entries appends what names the bucket of a descriptor that the rule applies to: its domain and its entries, with the
// pattern in place of a value whose bucket is shared.
func (r *Rule) Entries(dst []domain.DescriptorEntry, domainName string, entries []domain.DescriptorEntry) []domain.DescriptorEntry {
	dst = append(dst, domain.DescriptorEntry{Key: "domain", Value: domainName})
	for i, e := range entries {
		if i < len(r.shared) && r.shared[i] != "" {
			e.Value = r.shared[i]
		}
		dst = append(dst, e)
	}
	return dst
}

// Quota is a number of requests in a unit of time.
type Quota struct {
	Requests uint32
	Unit     Unit
}

// Unit is a unit of time. The zero value is none.
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
	name string
	span time.Duration
}{
	Second: {"second", time.Second}, Minute: {"minute", time.Minute}, Hour: {"hour", time.Hour}, Day: {"day", day},
	Week: {"week", 7 * day}, Month: {"month", 30 * day}, Year: {"year", 365 * day},
}

// ParseUnit reads a unit's name, in any case.
func ParseUnit(s string) (Unit, bool) {
	for u := Second; u <= Year; u++ {
		if strings.EqualFold(units[u].name, s) {
			return u, true
		}
	}
	return 0, false
}

// Valid reports whether u is one of the units.
func (u Unit) Valid() bool { return u >= Second && u <= Year }

// String is the name as the files spell it.
func (u Unit) String() string { return units[u].name }

// Span is the unit's length.
func (u Unit) Span() time.Duration { return units[u].span }

// Rule makes a rule of the quota alone, whose policy has this name.
func (q Quota) Rule(name string, failure domain.FailureMode) (*Rule, error) {
	r := &Rule{Quota: q}
	return r, r.complete(name, failure)
}

// complete makes the policy, if the rule is one that has to decide.
func (r *Rule) complete(name string, failure domain.FailureMode) (err error) {
	if r.Unlimited || r.Quota.Requests == 0 {
		return nil
	}
	mode := domain.ModeEnforce
	if r.Shadow {
		mode = domain.ModeShadow
	}
	r.Policy, err = r.Quota.policy(name, mode, failure)
	return err
}

// policy has the requests as capacity, and refills as many per unit.
func (q Quota) policy(name string, mode domain.Mode, failure domain.FailureMode) (*domain.Policy, error) {
	limit, err := domain.NewLimit("", domain.Tokens(q.Requests), domain.Tokens(q.Requests), q.Unit.Span())
	if err != nil {
		return nil, fmt.Errorf("%d per %s: %w", q.Requests, q.Unit, err)
	}
	p := &domain.Policy{
		Name: name, Key: domain.Key{{Kind: domain.SourceDescriptor}}, Limits: []domain.Limit{limit}, Mode: mode,
		OnStoreFailure: failure,
	}
	return p, p.Compile()
}

// MaxRequests is the largest quota's number.
const MaxRequests = math.MaxUint32

// node is a place in a domain's tree.
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

// next finds the node for an entry: that of the very value, else the first wildcard that takes it, else that of the key
// alone.
func (n *node) next(e domain.DescriptorEntry) *node {
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
func (r *Rules) Knows(domainName string) bool { return r != nil && r.domains[domainName] != nil }

// Find returns the rule of a descriptor: that of the node at which its entries end. Nil: none applies, and the descriptor
// is not limited.
func (r *Rules) Find(domainName string, entries []domain.DescriptorEntry) *Rule {
	n := r.domains[domainName]
	for i := 0; n != nil && i < len(entries); i++ {
		n = n.next(entries[i])
	}
	if n == nil || len(entries) == 0 {
		return nil
	}
	return n.rule
}

// Len is how many rules there are.
func (r *Rules) Len() int {
	if r == nil {
		return 0
	}
	return r.size
}
