package metrics

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// maxPolicies bounds the policies that are counted by name in the life of a process, reloads included.
	maxPolicies = 1000
	// otherPolicy counts the rest. It is no policy's name: those begin with a letter or a digit.
	otherPolicy = "_other"
)

// outcomes and stores are the values of the labels; a counter is found by their indices. shadow_denied is a denial that
// the policy's shadow mode let pass.
var (
	outcomes = [...]string{"allowed", "denied", "shadow_denied", "blocked", "exempt", "unavailable"}
	stores   = [...]domain.StoreName{
		domain.StoreRedis, domain.StoreMemory, domain.StoreShortcut, domain.StoreFallback, domain.StorePolicy,
	}
)

func outcomeOf(d *domain.Decision) int {
	switch d.Outcome {
	case domain.OutcomeAllowed:
		return 0
	case domain.OutcomeBlocked:
		return 3
	case domain.OutcomeExempt:
		return 4
	case domain.OutcomeUnavailable:
		return 5
	default:
		if d.Shadow {
			return 2
		}
		return 1
	}
}

func storeOf(name domain.StoreName) int {
	switch name {
	case domain.StoreRedis:
		return 0
	case domain.StoreMemory:
		return 1
	case domain.StoreShortcut:
		return 2
	case domain.StorePolicy:
		return 4
	default:
		return 3
	}
}

// counters of one policy.
type counters [len(outcomes)][len(stores)]atomic.Uint64

// decisions counts decisions by policy, outcome and store. Counting allocates nothing and takes no lock, but for the
// first decision of each policy.
type decisions struct {
	inForce func(policy string) bool
	desc    *prometheus.Desc
	// byPolicy is immutable and swapped whole when a policy is added.
	byPolicy atomic.Pointer[map[string]*counters]
	other    counters
	mu       sync.Mutex // for adding
}

func newDecisions(inForce func(policy string) bool) *decisions {
	d := &decisions{
		inForce: inForce,
		desc: prometheus.NewDesc("velocity_decisions_total",
			"Decisions that took or tried to take tokens, by policy, outcome and who decided.",
			[]string{"policy", "outcome", "store"}, nil),
	}
	d.byPolicy.Store(&map[string]*counters{})
	return d
}

func (d *decisions) count(decision *domain.Decision) {
	d.of(decision.Policy)[outcomeOf(decision)][storeOf(decision.Store)].Add(1)
}

func (d *decisions) of(policy string) *counters {
	if c, ok := (*d.byPolicy.Load())[policy]; ok {
		return c
	}
	return d.add(policy)
}

// add begins to count a policy by its name, if it is one of those in force: a caller who brings a policy of its own
// may call it anything.
func (d *decisions) add(policy string) *counters {
	if !d.inForce(policy) {
		return &d.other
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	known := *d.byPolicy.Load()
	if c, ok := known[policy]; ok {
		return c
	}
	if len(known) >= maxPolicies {
		return &d.other
	}
	next := maps.Clone(known)
	c := new(counters)
	next[policy] = c
	d.byPolicy.Store(&next)
	return c
}

// counts lists what is not zero, sorted by policy.
func (d *decisions) counts() []ports.DecisionCount {
	known := *d.byPolicy.Load()
	var list []ports.DecisionCount
	for _, policy := range slices.Sorted(maps.Keys(known)) {
		list = known[policy].appendTo(list, policy)
	}
	return d.other.appendTo(list, otherPolicy)
}

func (c *counters) appendTo(list []ports.DecisionCount, policy string) []ports.DecisionCount {
	for i := range c {
		for j := range c[i] {
			if n := c[i][j].Load(); n > 0 {
				list = append(list, ports.DecisionCount{Policy: policy, Outcome: outcomes[i], Store: stores[j], Count: n})
			}
		}
	}
	return list
}

// Describe implements prometheus.Collector.
func (d *decisions) Describe(ch chan<- *prometheus.Desc) { ch <- d.desc }

// Collect implements prometheus.Collector.
func (d *decisions) Collect(ch chan<- prometheus.Metric) {
	for _, c := range d.counts() {
		ch <- prometheus.MustNewConstMetric(d.desc, prometheus.CounterValue, float64(c.Count),
			c.Policy, c.Outcome, string(c.Store))
	}
}
