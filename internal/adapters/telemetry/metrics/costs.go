package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// costCounters are what the requests of one policy have cost whose answers report it. A policy without such requests is not exposed.
type costCounters struct {
	settled                              atomic.Bool
	estimated, actual, returned, charged atomic.Uint64 // tokens
	missing                              atomic.Uint64
	debts                                atomic.Uint64
}

var (
	usageDesc = prometheus.NewDesc("velocity_usage_tokens_total",
		"Tokens of requests whose answers report their cost: estimated before them, actual cost, returned or charged when they ended.",
		[]string{"policy", "kind"}, nil)
	usageMissingDesc = prometheus.NewDesc("velocity_usage_missing_total",
		"Answers that should have reported the cost of their requests, and did not.", []string{"policy"}, nil)
	debtDesc = prometheus.NewDesc("velocity_debt_reached_total",
		"Settlements of more than a limit can owe: it owes the most that it can, and the rest is not charged.", []string{"policy"}, nil)
)

var _ ports.CostObserver = (*Metrics)(nil)

// Settled implements ports.CostObserver.
func (m *Metrics) Settled(policyName string, estimate, actual domain.Tokens, missing bool) {
	c := &m.decisions.of(policyName).costCounters
	c.settled.Store(true)
	c.estimated.Add(uint64(estimate))
	c.actual.Add(uint64(actual))
	c.returned.Add(uint64(max(estimate-actual, 0)))
	c.charged.Add(uint64(max(actual-estimate, 0)))
	if missing {
		c.missing.Add(1)
	}
}

// DebtReached implements ports.HoldObserver.
func (m *Metrics) DebtReached(policyName string) { m.decisions.of(policyName).debts.Add(1) }

func (c *costCounters) collect(ch chan<- prometheus.Metric, policy string) {
	emit := func(desc *prometheus.Desc, count *atomic.Uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(count.Load()), append([]string{policy}, labels...)...)
	}
	settled := c.settled.Load()
	if settled || c.debts.Load() > 0 { // by callers of the decision API, who settle by themselves
		emit(debtDesc, &c.debts)
	}
	if !settled {
		return
	}
	emit(usageDesc, &c.estimated, "estimated")
	emit(usageDesc, &c.actual, "actual")
	emit(usageDesc, &c.returned, "returned")
	emit(usageDesc, &c.charged, "charged")
	emit(usageMissingDesc, &c.missing)
}
