package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Build says which program is running.
type Build struct{ Version, Revision, GoVersion string }

// Metrics are all the counters of one process, in a registry of their own. It is told of decisions as an observer.
// Safe for concurrent use; the Watch methods are for the time before the first scrape.
type Metrics struct {
	registry  *prometheus.Registry
	decisions *decisions
	failures  *failures
	latency   *latency
}

var (
	_ ports.Observer = (*Metrics)(nil)
	_ ports.Monitor  = (*Metrics)(nil)
)

// New counts from zero. inForce reports whether there is a policy of a name: only those are counted by name.
func New(build Build, inForce func(policy string) bool) *Metrics {
	m := &Metrics{
		registry:  prometheus.NewPedanticRegistry(),
		decisions: newDecisions(inForce),
		failures:  newFailures(),
		latency:   newLatency(),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "velocity_build_info",
		Help: "1, by the version, commit and compiler of this process.",
		ConstLabels: prometheus.Labels{
			"version": build.Version, "revision": build.Revision, "goversion": build.GoVersion,
		},
	})
	info.Set(1)
	m.registry.MustRegister(
		info, m.decisions, m.failures.total,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	for _, h := range m.latency {
		m.registry.MustRegister(h)
	}
	return m
}

// Decided implements ports.Observer.
func (m *Metrics) Decided(_ *domain.Request, d *domain.Decision) { m.decisions.count(d) }

// StoreFailed implements ports.Observer.
func (m *Metrics) StoreFailed(_ string, mode domain.FailureMode, cause error) {
	m.failures.count(mode, cause)
}

// Totals implements ports.Monitor.
func (m *Metrics) Totals() ports.Totals {
	return ports.Totals{Decisions: m.decisions.counts(), Latency: m.latency.total()}
}

// Measure returns limiter with its decisions timed.
func (m *Metrics) Measure(limiter ports.Limiter) *Limiter {
	start := time.Now()
	return &Limiter{Limiter: limiter, latency: m.latency, clock: func() time.Duration { return time.Since(start) }}
}

// Handler answers scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, MaxRequestsInFlight: 4})
}
