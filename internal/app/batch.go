package app

import (
	"sync"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// batchState is the scratch memory of one call. Later calls reuse it: the store's port takes slices, and allocating them
// for every decision would be most of the garbage on the hot path.
type batchState struct {
	request [1]policy.Request // of Decide
	answer  [1]ports.Answer

	resolved []resolved // the requests that need a store
	takes    []ports.TakeRequest
	results  []ports.TakeResult // of takes, as states
	states   []takeState

	undo   undoLists
	values keyValues
	parts  []clientkey.Part
	// multiKey says that a request has takes under several keys, which pass together or not at all.
	multiKey bool
}

// resolved is a request with its policy, and a take for each of the policy's bucket groups: takes[first:end].
type resolved struct {
	req        *policy.Request
	answer     *ports.Answer // its Decision has what does not depend on the store, such as the client and the cost
	policy     *policy.Policy
	groups     []policy.Group
	first, end int
	failed     bool // the observer knows that the store failed
	undone     bool // the takes were refunded, because another request of an atomic call may not pass

	queued, full bool // see maxWait
	// permitID is that of the permit that the takes hold; empty if no limit is a concurrency limit.
	permitID string
	// hasConcurrency says that a limit may be a concurrency limit: of the policy, for any client, or of an override at run time.
	hasConcurrency bool
	noKey          bool          // the request had no value for the policy's key
	overrideID     string        // the policy.Policy.OverrideID of the override that applies
	groupClients   []groupClient // of the groups that are shared limits, if hasConcurrency
}

// takeState is what became of one take.
type takeState uint8

const (
	// takeAsked means that the store is asked, or has answered.
	takeAsked takeState = iota
	// takeKnownDenied means that the denial cache denied it, and the store was not asked.
	takeKnownDenied
	// takeSkipped means that the store was not asked, because another take is denied.
	takeSkipped
	// takeFailedOpen means that the store failed, and the policy lets the request pass.
	takeFailedOpen
	// takeFailedClosed means that the store failed, and the policy refuses the request.
	takeFailedClosed
	// takeLocal means that the store failed, and the store of this process decided.
	takeLocal
	// takeError means that there is no decision, but an error.
	takeError
)

// passes reports whether the take does not stop its request.
func (b *batchState) passes(i int) bool {
	switch b.states[i] {
	case takeAsked, takeLocal:
		return b.results[i].Verdict == domain.Allowed
	case takeFailedOpen, takeSkipped:
		return true
	default:
		return false
	}
}

// allPass reports whether every take of a request passes.
func (b *batchState) allPass(q *resolved) bool {
	for i := q.first; i < q.end; i++ {
		if !b.passes(i) {
			return false
		}
	}
	return true
}

// peeksOnly reports whether a take changes nothing, although its request is to take, to charge or to give back: the policy is in
// shadow mode, and the limit is shared.
func (b *batchState) peeksOnly(q *resolved, i int) bool { return b.takes[i].Op != q.req.Op }

// decidePeek sets the verdict that a take would have had, if only the levels were read.
func (b *batchState) decidePeek(q *resolved, i int) {
	if !b.peeksOnly(q, i) || q.req.Op != domain.OpTake || b.states[i] != takeAsked && b.states[i] != takeLocal {
		return
	}
	for k, state := range b.results[i].States {
		if !b.takes[i].Limits[k].CanPay(state, b.takes[i].Cost) {
			b.results[i].Verdict = domain.Denied
		}
	}
}

// growResults makes room for the results of n takes. It keeps the memory of earlier calls' states for reuse.
func (b *batchState) growResults(n int) {
	if n > cap(b.results) {
		b.results = append(b.results[:cap(b.results)], make([]ports.TakeResult, n-cap(b.results))...)
	}
	b.results = b.results[:n]
	if n > cap(b.states) {
		b.states = make([]takeState, n, 2*n)
	}
	b.states = b.states[:n]
	clear(b.states)
}

// maxKept bounds the memory that an idle batchState holds.
const maxKept = 1024

// putBack must not be deferred: after a panic the batch may hold anything.
func (b *batchState) putBack(pool *sync.Pool) {
	if cap(b.takes) > maxKept {
		return
	}
	clear(b.takes)
	clear(b.resolved)
	clear(b.parts[:cap(b.parts)])
	b.takes, b.resolved, b.parts = b.takes[:0], b.resolved[:0], b.parts[:0]
	b.values, b.multiKey = keyValues{}, false
	pool.Put(b)
}
