package metrics

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The reasons for which a store does not decide.
const (
	reasonOutage   = "outage"
	reasonOverload = "overload" // ours: the store may be well
)

// failures counts the operations that the store failed to carry out, by what was done instead.
type failures struct{ total *prometheus.CounterVec }

func newFailures() *failures {
	f := &failures{total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "velocity_store_failures_total",
		Help: "Operations that the store did not carry out, by the failure mode that answered and the reason.",
	}, []string{"mode", "reason"})}
	for _, mode := range []domain.FailureMode{domain.FailOpen, domain.FailClosed, domain.FailLocal} {
		f.total.WithLabelValues(string(mode), reasonOutage)
		f.total.WithLabelValues(string(mode), reasonOverload)
	}
	return f
}

func (f *failures) count(mode domain.FailureMode, cause error) {
	reason := reasonOutage
	if errors.Is(cause, ports.ErrOverloaded) {
		reason = reasonOverload
	}
	f.total.WithLabelValues(string(mode), reason).Inc()
}
