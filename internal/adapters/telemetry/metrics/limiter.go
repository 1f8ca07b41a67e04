package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// latencyBounds reach from a decision in memory to the longest budget that is of any use, in seconds.
var latencyBounds = []float64{
	.000005, .00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1,
}

// latency is how long decisions take, by who decided.
type latency [len(stores)]prometheus.Histogram

func newLatency() *latency {
	l := new(latency)
	for i, store := range stores {
		l[i] = prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:        "velocity_decision_duration_seconds",
			Help:        "Time from a request's arrival at the limiter to its decision, by who decided.",
			Buckets:     latencyBounds,
			ConstLabels: prometheus.Labels{"store": string(store)},
		})
	}
	return l
}

// total adds the stores up.
func (l *latency) total() ports.Histogram {
	t := ports.Histogram{Bounds: latencyBounds, Counts: make([]uint64, len(latencyBounds)+1)}
	for _, h := range l {
		var m dto.Metric
		if h.Write(&m) != nil {
			continue // it writes memory to memory
		}
		below := uint64(0)
		for i, b := range m.GetHistogram().GetBucket() {
			t.Counts[i] += b.GetCumulativeCount() - below
			below = b.GetCumulativeCount()
		}
		t.Counts[len(latencyBounds)] += m.GetHistogram().GetSampleCount() - below
		t.Sum += m.GetHistogram().GetSampleSum()
	}
	return t
}

// Limiter measures the decisions of another one. Peeks, refunds and charges are not measured, as they are not counted.
type Limiter struct {
	ports.Limiter
	latency *latency
	clock   func() time.Duration // monotonic: to read the time of day, too, would take as long again
}

// Decide implements ports.Limiter.
func (l *Limiter) Decide(ctx context.Context, req domain.Request) (domain.Decision, error) {
	start := l.clock()
	d, err := l.Limiter.Decide(ctx, req)
	if err == nil {
		l.observe(&req, &d, (l.clock() - start).Seconds())
	}
	return d, err
}

// DecideMany implements ports.Limiter. Each of the requests takes as long as all of them.
func (l *Limiter) DecideMany(ctx context.Context, reqs []domain.Request, answers []ports.Answer) {
	start := l.clock()
	l.Limiter.DecideMany(ctx, reqs, answers)
	l.observeAll(reqs, answers, l.clock()-start)
}

// DecideTogether implements ports.Limiter. Each of the requests takes as long as all of them.
func (l *Limiter) DecideTogether(ctx context.Context, reqs []domain.Request, answers []ports.Answer) {
	start := l.clock()
	l.Limiter.DecideTogether(ctx, reqs, answers)
	l.observeAll(reqs, answers, l.clock()-start)
}

func (l *Limiter) observeAll(reqs []domain.Request, answers []ports.Answer, took time.Duration) {
	for i := range answers {
		if answers[i].Err == nil {
			l.observe(&reqs[i], &answers[i].Decision, took.Seconds())
		}
	}
}

func (l *Limiter) observe(req *domain.Request, d *domain.Decision, seconds float64) {
	if req.Op != domain.OpTake || req.Cost == 0 && d.Cost == 0 || d.Policy == "" {
		return
	}
	l.latency[storeOf(d.Store)].Observe(seconds)
}
