package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// latencyBounds reach from a decision in memory to the longest useful budget, in seconds.
var latencyBounds = []float64{
	.000005, .00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1,
}

// latency measures how long decisions take, by the store that decided.
type latency [len(stores)]prometheus.Histogram

func newLatency() *latency {
	l := new(latency)
	for i, store := range stores {
		l[i] = prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:        "velocity_decision_duration_seconds",
			Help:        "Time from a request's arrival at the limiter to its decision, by the store that decided.",
			Buckets:     latencyBounds,
			ConstLabels: prometheus.Labels{"store": string(store)},
		})
	}
	return l
}

// total returns the sum over all stores.
func (l *latency) total() ports.Histogram {
	t := ports.Histogram{Bounds: latencyBounds, Counts: make([]uint64, len(latencyBounds)+1)}
	for _, h := range l {
		var m dto.Metric
		if h.Write(&m) != nil {
			continue // this cannot fail, since it only copies memory
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

// Limiter measures the decisions of another limiter. It does not measure peeks, refunds and charges, nor how long
// a request waits after its decision.
type Limiter struct {
	ports.Limiter
	latency *latency
	clock   func() time.Duration // monotonic; time.Now reads the wall clock too, which takes twice as long
}

// Decide implements ports.Limiter.
func (l *Limiter) Decide(ctx context.Context, req policy.Request) (decision.Decision, error) {
	start := l.clock()
	d, err := l.Limiter.Decide(ctx, req)
	if err == nil {
		l.observe(&req, &d, l.clock()-start-waited(&req, &d))
	}
	return d, err
}

// waited is how long a request with Hold was held after its decision.
func waited(req *policy.Request, d *decision.Decision) time.Duration {
	if !req.Hold {
		return 0
	}
	return d.Wait
}

// DecideMany implements ports.Limiter. Each request counts with the time of the whole call.
func (l *Limiter) DecideMany(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	start := l.clock()
	l.Limiter.DecideMany(ctx, reqs, answers)
	l.observeAll(reqs, answers, l.clock()-start)
}

// DecideAtomic implements ports.Limiter. Each request counts with the time of the whole call.
func (l *Limiter) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	start := l.clock()
	l.Limiter.DecideAtomic(ctx, reqs, answers)
	l.observeAll(reqs, answers, l.clock()-start)
}

func (l *Limiter) observeAll(reqs []policy.Request, answers []ports.Answer, took time.Duration) {
	longest := time.Duration(0)
	for i := range answers {
		longest = max(longest, waited(&reqs[i], &answers[i].Decision))
	}
	for i := range answers {
		if answers[i].Err == nil {
			l.observe(&reqs[i], &answers[i].Decision, took-longest)
		}
	}
}

func (l *Limiter) observe(req *policy.Request, d *decision.Decision, took time.Duration) {
	if req.Op != domain.OpTake || req.Cost == 0 && d.Cost == 0 || d.Policy == "" {
		return
	}
	l.latency[storeOf(d.Store)].Observe(took.Seconds())
}
