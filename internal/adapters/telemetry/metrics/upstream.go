package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// upstreamBounds reach to the default time-out of an upstream, in seconds.
var upstreamBounds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Upstream counts what the server behind the reverse proxy answered.
type Upstream struct {
	// answers by class: 0 for none, and 1 to 5 for 1xx to 5xx.
	answers [6]prometheus.Counter
	took    prometheus.Histogram
}

// WatchUpstream makes and exposes the counters of the reverse proxy.
func (m *Metrics) WatchUpstream() *Upstream {
	u := &Upstream{took: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "velocity_upstream_duration_seconds",
		Help:    "Time from forwarding a request to the header of the upstream's answer.",
		Buckets: upstreamBounds,
	})}
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "velocity_upstream_answers_total",
		Help: "Answers of the upstream, by class of status; none for requests that it did not answer.",
	}, []string{"class"})
	for class := range u.answers {
		name := "none"
		if class > 0 {
			name = strconv.Itoa(class) + "xx"
		}
		u.answers[class] = total.WithLabelValues(name)
	}
	m.registry.MustRegister(total, u.took)
	return u
}

// Answered counts an answer with this status; 0: there was none.
func (u *Upstream) Answered(status int, took time.Duration) {
	class := status / 100
	if class < 1 || class > 5 {
		u.answers[0].Inc()
		return
	}
	u.answers[class].Inc()
	u.took.Observe(took.Seconds())
}
