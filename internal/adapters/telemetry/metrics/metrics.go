// Package metrics counts decisions and failures, for Prometheus and for the operator's page.
//
// The values of labels come from bounded sets: the policies in force, outcomes, stores, shards. No label is a client, a key
// or a path, so clients cannot make the exposition grow.
package metrics

import (
	"cmp"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Build describes the running program.
type Build struct{ Version, Revision, GoVersion string }

// Why a store did not carry out an operation.
const (
	reasonOutage   = "outage"
	reasonOverload = "overload" // of this process; the store may be healthy
)

// noMode is the label of operations that have no failure mode.
const noMode policy.FailureMode = "none"

// Metrics holds all counters of one process, in a registry of its own. It counts decisions, permits and waits as a ports.HoldObserver, and
// costs as a ports.CostObserver. It is safe for concurrent use. Call the Watch methods before the first scrape.
type Metrics struct {
	registry  *prometheus.Registry
	decisions *decisions
	failures  *prometheus.CounterVec
	latency   *latency
}

var (
	_ ports.HoldObserver = (*Metrics)(nil)
	_ ports.Monitor      = (*Metrics)(nil)
)

// New returns counters that start at zero. inForce reports whether a policy has the name; only these are counted by name.
func New(build Build, inForce func(policyName string) bool) *Metrics {
	m := &Metrics{
		registry:  prometheus.NewPedanticRegistry(),
		decisions: newDecisions(inForce),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "velocity_store_failures_total",
			Help: "Operations that the store did not carry out, by the failure mode that answered and the reason.",
		}, []string{"mode", "reason"}),
		latency: newLatency(),
	}
	for _, mode := range []policy.FailureMode{policy.FailOpen, policy.FailClosed, policy.FailLocal, noMode} {
		m.failures.WithLabelValues(string(mode), reasonOutage)
		m.failures.WithLabelValues(string(mode), reasonOverload)
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "velocity_build_info",
		Help: "1, with the version, commit and compiler of this process as labels.",
		ConstLabels: prometheus.Labels{
			"version": build.Version, "revision": build.Revision, "goversion": build.GoVersion,
		},
	})
	info.Set(1)
	m.registry.MustRegister(
		info, m.decisions, m.failures,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	for _, h := range m.latency {
		m.registry.MustRegister(h)
	}
	return m
}

// Decided implements ports.Observer.
func (m *Metrics) Decided(_ *policy.Request, d *decision.Decision) { m.decisions.count(d) }

// StoreFailed implements ports.Observer.
func (m *Metrics) StoreFailed(_ string, mode policy.FailureMode, cause error) {
	reason := reasonOutage
	if errors.Is(cause, ports.ErrOverloaded) {
		reason = reasonOverload
	}
	m.failures.WithLabelValues(string(cmp.Or(mode, noMode)), reason).Inc()
}

// Totals implements ports.Monitor.
func (m *Metrics) Totals() ports.Totals {
	return ports.Totals{Decisions: m.decisions.counts(), Latency: m.latency.total()}
}

// Measure returns a limiter that measures the decisions of limiter.
func (m *Metrics) Measure(limiter ports.Limiter) *Limiter {
	start := time.Now()
	return &Limiter{Limiter: limiter, latency: m.latency, clock: func() time.Duration { return time.Since(start) }}
}

// Handler returns the handler for scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, MaxRequestsInFlight: 4})
}
