package app

import (
	"sync"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// round is the memory of one call, used again by later ones: the store's port takes slices, and making them anew
// for every decision would be most of the garbage on the hot path.
type round struct {
	single [1]domain.Request
	answer [1]ports.Answer

	takes   []ports.TakeRequest
	plans   []plan // plans[i] is what takes[i] comes from
	results []ports.TakeResult
}

// plan is what a request comes to.
type plan struct {
	index      int            // of the request
	policy     *domain.Policy // nil: no policy applies
	key        domain.BucketKey
	client     string
	keyMissing bool
}

// nextPlan is for the caller to fill in, and to add or to drop.
func (w *round) nextPlan(index int) *plan {
	w.plans = append(w.plans, plan{index: index})
	return &w.plans[len(w.plans)-1]
}

func (w *round) dropPlan() { w.plans = w.plans[:len(w.plans)-1] }

func (w *round) add(p *plan, req *domain.Request) {
	w.takes = append(w.takes, ports.TakeRequest{Op: req.Op, Key: p.key, Limits: p.policy.Limits, Cost: req.Cost})
}

// resultsFor keeps what the slots point to: the stores write their buckets into the same memory again.
func (w *round) resultsFor(n int) []ports.TakeResult {
	if n > cap(w.results) {
		w.results = append(w.results[:cap(w.results)], make([]ports.TakeResult, n-cap(w.results))...)
	}
	w.results = w.results[:n]
	return w.results
}

// maxKept bounds the memory that an idle round holds on to.
const maxKept = 1024

func (w *round) putBack(pool *sync.Pool) {
	if cap(w.takes) > maxKept {
		return
	}
	clear(w.takes)
	clear(w.plans)
	w.takes, w.plans = w.takes[:0], w.plans[:0]
	pool.Put(w)
}
