package memstore

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// permits are those of the groups of one stripe, whose lock its methods need.
type permits struct {
	sets map[permitsName]*domain.Permits // none of them is empty; nil: there are none
	// total is the number of permits in all stripes.
	total *atomic.Int64
	max   int64
}

type permitsName struct {
	key   clientkey.BucketKey
	limit string
}

// apply carries out a list, or a request whose group has a limit of domain.KindConcurrency. It reports whether the states of the
// other limits are to be stored.
func (p *permits) apply(req *ports.TakeRequest, result *ports.TakeResult) (write bool) {
	op := req.Operation()
	reserved, full := int64(0), false
	if op.Op == domain.OpTake && op.Cost > 0 {
		op.Permit = strings.Clone(op.Permit) // it is kept
		reserved, full = p.reserve(req, result.Now)
	}
	var memory [policy.MaxLimits]*domain.Permits
	sets := memory[:len(req.Limits)]
	before := p.find(req, sets)
	if full && passes(op, req.Limits, result, sets) {
		result.Err = &tooManyPermitsError{p.max}
	} else {
		result.Verdict, write = domain.Apply(op, req.Limits, result.States, sets, result.Now)
	}
	p.total.Add(p.keep(req, sets) - before - reserved)
	if op.Op == domain.OpList {
		list(sets, result)
	}
	return write
}

// reserve counts the permits that a take may add. If there is no room for them, it counts none and reports that.
func (p *permits) reserve(req *ports.TakeRequest, now domain.Instant) (reserved int64, full bool) {
	for i := range req.Limits {
		if req.Limits[i].Kind() == domain.KindConcurrency {
			reserved++
		}
	}
	if p.total.Add(reserved) <= p.max {
		return reserved, false
	}
	for i := range req.Limits {
		name := permitsName{req.Key, req.Limits[i].Name()}
		if set := p.sets[name]; set != nil {
			p.removeExpired(name, set, now)
		}
	}
	if p.sweep(now, sampleSize); p.total.Load() <= p.max {
		return reserved, false
	}
	p.total.Add(-reserved)
	return 0, true
}

// find sets the permits of each limit of domain.KindConcurrency, and returns how many there are.
func (p *permits) find(req *ports.TakeRequest, sets []*domain.Permits) (n int64) {
	for i := range req.Limits {
		l := &req.Limits[i]
		if l.Kind() != domain.KindConcurrency {
			continue
		}
		if sets[i] = p.sets[permitsName{req.Key, l.Name()}]; sets[i] == nil {
			sets[i] = new(domain.Permits)
		}
		n += int64(sets[i].Len())
	}
	return n
}

// keep stores the permits of each limit, and returns how many there are.
func (p *permits) keep(req *ports.TakeRequest, sets []*domain.Permits) (n int64) {
	for i, set := range sets {
		if set == nil {
			continue
		}
		n += int64(set.Len())
		name := permitsName{req.Key, req.Limits[i].Name()}
		if _, kept := p.sets[name]; kept == (set.Len() > 0) {
			continue
		} else if kept {
			delete(p.sets, name)
			continue
		}
		if p.sets == nil {
			p.sets = map[permitsName]*domain.Permits{}
		}
		p.sets[permitsName{clientkey.BucketKey(strings.Clone(string(name.key))), strings.Clone(name.limit)}] = set
	}
	return n
}

// passes reports whether a take will pass. It removes permits that have expired, and changes nothing else.
func passes(take domain.Operation, limits []domain.Limit, result *ports.TakeResult, sets []*domain.Permits) bool {
	states := slices.Clone(result.States)
	domain.Apply(domain.Operation{Op: domain.OpPeek}, limits, states, sets, result.Now)
	for i := range limits {
		if !limits[i].CanPayWithin(states[i], take.Cost, take.MaxWait) {
			return false
		}
	}
	return true
}

// list sets the permits of a result.
func list(sets []*domain.Permits, result *ports.TakeResult) {
	result.Permits = slices.Grow(result.Permits, len(sets))[:len(sets)]
	for i, set := range sets {
		result.Permits[i] = result.Permits[i][:0]
		if set != nil {
			result.Permits[i] = set.List(result.Permits[i])
		}
	}
}

// sweep removes the permits that have expired, of at most so many limits of clients. It begins with any of them: a range over a
// map does.
func (p *permits) sweep(now domain.Instant, most int) {
	for name, set := range p.sets {
		if most--; most < 0 {
			return
		}
		p.removeExpired(name, set, now)
	}
	if len(p.sets) == 0 {
		p.sets = nil // a map does not shrink
	}
}

// removeExpired removes the permits of a set that have expired, and the set if none is left.
func (p *permits) removeExpired(name permitsName, set *domain.Permits, now domain.Instant) {
	before := set.Len()
	set.Expire(now)
	p.total.Add(int64(set.Len() - before))
	if set.Len() == 0 {
		delete(p.sets, name)
	}
}

// tooManyPermitsError wraps ports.ErrOverloaded.
type tooManyPermitsError struct{ max int64 }

// Error implements error.
func (e *tooManyPermitsError) Error() string {
	return fmt.Sprintf("the memory store has no room for another permit: it may hold %d", e.max)
}

// Unwrap returns ports.ErrOverloaded.
func (e *tooManyPermitsError) Unwrap() error { return ports.ErrOverloaded }
