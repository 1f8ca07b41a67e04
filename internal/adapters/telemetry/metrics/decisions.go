package metrics

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// maxPolicies bounds how many policies a process counts by name, over all reloads.
	maxPolicies = 1000
	// otherPolicy is the label for the rest. No policy can have this name: names start with a letter or a digit.
	otherPolicy = "_other"
)

// outcomes and stores are the values of the labels; their indices select a counter. shadow_denied is a denial that the
// policy's shadow mode let pass.
var (
	outcomes = [...]string{"allowed", "denied", "shadow_denied", "blocked", "exempt", "unavailable"}
	stores   = [...]decision.StoreName{
		decision.StoreRedis, decision.StoreMemory, decision.StoreShortcut, decision.StoreFallback, decision.StorePolicy,
	}
	outcomeIndex = [...]int{
		decision.OutcomeAllowed: 0, decision.OutcomeDenied: 1, decision.OutcomeBlocked: 3, decision.OutcomeExempt: 4,
		decision.OutcomeUnavailable: 5,
	}
)

func outcomeOf(d *decision.Decision) int {
	if d.Outcome == decision.OutcomeDenied && d.Shadow {
		return 2
	}
	return outcomeIndex[d.Outcome]
}

func storeOf(name decision.StoreName) int {
	if i := slices.Index(stores[:], name); i >= 0 {
		return i
	}
	return slices.Index(stores[:], decision.StoreFallback)
}

// counters are the counts of one policy.
type counters struct {
	made [len(outcomes)][len(stores)]atomic.Uint64
	holdCounters
	costCounters
}

func (c *counters) collect(ch chan<- prometheus.Metric, policy string) {
	c.holdCounters.collect(ch, policy)
	c.costCounters.collect(ch, policy)
}

// decisions counts decisions by policy, outcome and store, and permits, waits and costs by policy. Only the first decision of a policy allocates memory and takes a
// lock.
type decisions struct {
	inForce func(policy string) bool
	desc    *prometheus.Desc
	// byPolicy is immutable. Adding a policy replaces it.
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

func (d *decisions) count(made *decision.Decision) {
	d.of(made.Policy).made[outcomeOf(made)][storeOf(made.Store)].Add(1)
}

func (d *decisions) of(policy string) *counters {
	if c, ok := (*d.byPolicy.Load())[policy]; ok {
		return c
	}
	return d.add(policy)
}

// add returns the counters of a new policy. A policy that is not in force, such as one that a caller brings, is not counted by
// its name.
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

// counts returns the counts that are not zero, sorted by policy.
func (d *decisions) counts() []ports.DecisionCount {
	known := *d.byPolicy.Load()
	var list []ports.DecisionCount
	for _, policy := range slices.Sorted(maps.Keys(known)) {
		list = known[policy].appendTo(list, policy)
	}
	return d.other.appendTo(list, otherPolicy)
}

func (c *counters) appendTo(list []ports.DecisionCount, policy string) []ports.DecisionCount {
	for i := range c.made {
		for j := range c.made[i] {
			if n := c.made[i][j].Load(); n > 0 {
				list = append(list, ports.DecisionCount{Policy: policy, Outcome: outcomes[i], Store: stores[j], Count: n})
			}
		}
	}
	return list
}

// Describe implements prometheus.Collector.
func (d *decisions) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{d.desc, heldDesc, expiredDesc, waitingDesc, waitsDesc, usageDesc, usageMissingDesc, debtDesc} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (d *decisions) Collect(ch chan<- prometheus.Metric) {
	for _, c := range d.counts() {
		ch <- prometheus.MustNewConstMetric(d.desc, prometheus.CounterValue, float64(c.Count),
			c.Policy, c.Outcome, string(c.Store))
	}
	for policy, c := range *d.byPolicy.Load() {
		c.collect(ch, policy)
	}
	d.other.collect(ch, otherPolicy)
}
