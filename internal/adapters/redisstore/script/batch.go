package script

import (
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Batch is the requests that are sent to a server in one call. Requests of one key that are equal, with no other request of
// that key between them, become one group: since all are decided at the same instant, the script needs to say only how many
// of them pass. [Group.Settle] then gives each request the answer that it would have got by itself, after those before it.
//
// The zero value is empty. It is not safe for concurrent use.
type Batch struct {
	// Separate leaves every request a group of its own: what equal requests must be answered like, and be compared with.
	Separate bool

	groups []*Group
	// newest is an open hash table of the newest group of each key: its index in groups, counted from 1; 0 is free.
	newest   [4 * MaxGroups]uint8
	requests int
}

var seed = maphash.MakeSeed()

// Add adds a request after the others. The batch must have space for it.
func (b *Batch) Add(g *Group) {
	g.next, g.last, g.further, g.passed, g.free = nil, nil, 0, 0, true
	b.requests++
	if b.Separate {
		g.free = false
		b.groups = append(b.groups, g)
		return
	}
	at := maphash.String(seed, string(g.Request.Key)) % uint64(len(b.newest))
	for ; b.newest[at] != 0; at = (at + 1) % uint64(len(b.newest)) {
		known := b.groups[b.newest[at]-1]
		if known.Request.Key != g.Request.Key {
			continue
		}
		if equal(&known.Request, &g.Request) {
			known.append(g)
			return
		}
		g.free = false
		break
	}
	b.groups = append(b.groups, g)
	b.newest[at] = uint8(len(b.groups))
}

// Space is how many more requests fit, at the least: a request that equals one of its key always does.
func (b *Batch) Space() int { return MaxGroups - len(b.groups) }

// Len is the number of requests.
func (b *Batch) Len() int { return b.requests }

// Groups returns the groups to send. They belong to the batch.
func (b *Batch) Groups() []*Group { return b.groups }

// Clear empties the batch and keeps its memory.
func (b *Batch) Clear() {
	if len(b.groups) > 0 {
		clear(b.newest[:])
	}
	clear(b.groups)
	b.groups, b.requests = b.groups[:0], 0
}

// append adds a request to those that the group stands for.
func (g *Group) append(other *Group) {
	if g.next == nil {
		g.next = other
	} else {
		g.last.next = other
	}
	g.last = other
	g.further++
}

// Requests is how many requests the group stands for.
func (g *Group) Requests() int { return 1 + g.further }

// times is how often the script must carry out the request. A peek changes nothing that the next one finds.
func (g *Group) times() int {
	if g.Request.Op == domain.OpPeek || g.Request.Cost == 0 {
		return 1
	}
	return 1 + g.further
}

// equal reports whether two requests of one key are of one kind, and may be one group.
func equal(a, b *ports.TakeRequest) bool {
	return a.Op == b.Op && a.Cost == b.Cost && domain.EqualLimits(a.Limits, b.Limits) &&
		(a.MaxWait == b.MaxWait && a.TakenAt == b.TakenAt || timeOf(a) == timeOf(b)) && mayRepeat(a)
}

// mayRepeat reports whether a group may stand for several such requests. It may not where each is about a permit of its own;
// nor where a refund to several limits leaves one full, whose time a further refund moves by the fraction of a tick that has
// passed. Operations that are rare are left alone.
func mayRepeat(r *ports.TakeRequest) bool {
	switch r.Op {
	case domain.OpTake, domain.OpUndo, domain.OpRefund, domain.OpCharge:
	case domain.OpPeek:
		return true
	default:
		return false
	}
	if r.Cost == 0 {
		return true // a peek
	}
	refunds := r.Op == domain.OpUndo || r.Op == domain.OpRefund
	return !slices.ContainsFunc(r.Limits, func(l domain.Limit) bool {
		bucket := l.TokenBucket()
		return l.Kind() == domain.KindConcurrency || refunds && len(r.Limits) > 1 && bucket != nil && bucket.TickMicros() > 1
	})
}

// Settle gives all requests that the group stands for their results, once it has its own: it decides them one after the other,
// as the script has, from the states before the first.
func (g *Group) Settle() {
	if g.Result.Err == nil && g.times() > 1 {
		passed := 0
		for f, before := g, g.Result.States; f != nil; f = f.next {
			verdict := f.decide(before, &g.Result)
			if verdict == domain.Allowed {
				passed++
			}
			before = f.Result.States
		}
		if passed == g.passed {
			return
		}
		g.Result.Err = fmt.Errorf("%w: the script's reply is garbled: of %d equal requests %d passed, not %d",
			ports.ErrUnavailable, g.Requests(), g.passed, passed)
	}
	for f := g.next; f != nil; f = f.next {
		f.Result = ports.TakeResult{
			Err: g.Result.Err, Verdict: g.Result.Verdict, Now: g.Result.Now, Store: g.Result.Store,
			States: append(f.Result.States[:0], g.Result.States...),
		}
	}
}

// decide decides a request of a group from the states that it finds.
func (g *Group) decide(before []domain.State, first *ports.TakeResult) domain.Verdict {
	states := append(g.Result.States[:0], before...)
	verdict, _ := domain.Apply(g.Request.Operation(), g.Request.Limits, states, nil, first.Now)
	g.Result = ports.TakeResult{Verdict: verdict, Now: first.Now, Store: decision.StoreRedis, States: states}
	return verdict
}
