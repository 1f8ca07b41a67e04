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

	plans   []plan // the requests that a store is asked about
	takes   []ports.TakeRequest
	results []ports.TakeResult
	states  []groupState

	back   refunds
	finder clientFinder
	parts  []domain.KeyPart
	// linked says that several takes pass together or not at all: those of a policy with limits of several keys, or of
	// several requests.
	linked bool
}

// plan is what a request comes to: takes[first:end], one for each bucket group.
type plan struct {
	index      int // of the request
	policy     *domain.Policy
	groups     []domain.Group
	client     string
	keyMissing bool
	byAddress  bool // client is the address that stood in
	cost       domain.Tokens
	first, end int
	// givenBack says that what was taken has been refunded, since another request may not pass.
	givenBack bool
}

// groupState is what became of one take.
type groupState uint8

const (
	// stateAsked: the store is asked, or has answered.
	stateAsked groupState = iota
	// stateForeseen: denied without asking the store, which would deny.
	stateForeseen
	// stateLeft: not asked, since another one is denied.
	stateLeft
	// statePassedOpen: the store failed, and the policy lets pass.
	statePassedOpen
	// stateRefused: the store failed, and the policy refuses.
	stateRefused
	// stateLocal: the store failed, and this process's own memory decided.
	stateLocal
	// stateFailed: there is no decision, but an error.
	stateFailed
)

// reset empties a round for the requests to come.
func (w *round) reset() {
	clear(w.takes)
	clear(w.plans)
	clear(w.parts[:cap(w.parts)])
	w.takes, w.plans, w.parts = w.takes[:0], w.plans[:0], w.parts[:0]
	w.finder, w.linked = clientFinder{}, false
	w.back.store.reset() // a panic may have left what is to be given back
	w.back.local.reset()
}

// resultsFor keeps what the slots point to: the stores write their buckets into the same memory again.
func (w *round) resultsFor(n int) {
	if n > cap(w.results) {
		w.results = append(w.results[:cap(w.results)], make([]ports.TakeResult, n-cap(w.results))...)
	}
	w.results = w.results[:n]
	if n > cap(w.states) {
		w.states = make([]groupState, n, 2*n)
	}
	w.states = w.states[:n]
	clear(w.states)
}

// maxKept bounds the memory that an idle round holds on to.
const maxKept = 1024

func (w *round) putBack(pool *sync.Pool) {
	if cap(w.takes) > maxKept {
		return
	}
	w.reset()
	pool.Put(w)
}
