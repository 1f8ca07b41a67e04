package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// waitOutcomes are the values of a label; their indices select a counter.
var waitOutcomes = [...]ports.WaitOutcome{ports.WaitServed, ports.WaitLeft, ports.WaitFull}

// holdCounters are the counts of one policy's permits and waits. A policy that never had any is not exposed.
type holdCounters struct {
	held, waiting atomic.Int64
	expired       atomic.Uint64
	waits         [len(waitOutcomes)]atomic.Uint64

	hasHeld, hasWaited atomic.Bool
}

var (
	heldDesc = prometheus.NewDesc("velocity_permits_held",
		"Permits of concurrency limits that this process holds for requests in progress.", []string{"policy"}, nil)
	expiredDesc = prometheus.NewDesc("velocity_permits_expired_total",
		"Permits that this process lost while their requests were in progress.", []string{"policy"}, nil)
	waitingDesc = prometheus.NewDesc("velocity_waiting",
		"Requests that wait in this process for tokens that are yet to come.", []string{"policy"}, nil)
	waitsDesc = prometheus.NewDesc("velocity_waits_total",
		"Requests that had to wait: served, left before their turn, or denied because too many waited (full).",
		[]string{"policy", "outcome"}, nil)
)

// Waiting implements ports.HoldObserver.
func (m *Metrics) Waiting(policyName string, change int) {
	c := &m.decisions.of(policyName).holdCounters
	c.hasWaited.Store(true)
	c.waiting.Add(int64(change))
}

// Waited implements ports.HoldObserver.
func (m *Metrics) Waited(policyName string, outcome ports.WaitOutcome) {
	c := &m.decisions.of(policyName).holdCounters
	c.hasWaited.Store(true)
	for i := range waitOutcomes {
		if waitOutcomes[i] == outcome {
			c.waits[i].Add(1)
		}
	}
}

// PermitsHeld implements ports.HoldObserver.
func (m *Metrics) PermitsHeld(policyName string, change int) {
	c := &m.decisions.of(policyName).holdCounters
	c.hasHeld.Store(true)
	c.held.Add(int64(change))
}

// PermitExpired implements ports.HoldObserver.
func (m *Metrics) PermitExpired(policyName string) { m.decisions.of(policyName).expired.Add(1) }

func (c *holdCounters) collect(ch chan<- prometheus.Metric, policy string) {
	emit := func(desc *prometheus.Desc, typ prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, typ, value, append([]string{policy}, labels...)...)
	}
	if c.hasHeld.Load() {
		emit(heldDesc, prometheus.GaugeValue, float64(c.held.Load()))
		emit(expiredDesc, prometheus.CounterValue, float64(c.expired.Load()))
	}
	if c.hasWaited.Load() {
		emit(waitingDesc, prometheus.GaugeValue, float64(c.waiting.Load()))
		for i, outcome := range waitOutcomes {
			emit(waitsDesc, prometheus.CounterValue, float64(c.waits[i].Load()), string(outcome))
		}
	}
}
