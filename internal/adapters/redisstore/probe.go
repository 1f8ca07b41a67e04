package redisstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Probes of a shard that is not asked: the first comes soon, for what was a hiccup; the longest interval decides how
// long a shard is back before that is noticed. They are jittered, so that a fleet does not meet a shard all at once.
const (
	probeFirst  = 100 * time.Millisecond
	probeMost   = 400 * time.Millisecond
	probeJitter = 0.25 // the most that is added
)

// probeKey can be no client's: theirs hold a colon.
const probeKey domain.BucketKey = "probe"

// probeUntilBack tells that the shard failed at the time since, asks it until it can decide, and tells that, too.
func (g *guard) probeUntilBack(cause error, since time.Time) {
	kind := classify(cause).kind
	if kind == ports.FailureNoPerm {
		cause = g.explain(cause)
	}
	g.notices.breaker(BreakerChange{Shard: g.name, Open: true, At: since, Cause: cause, Kind: kind})
	for interval := probeFirst; g.pause(interval); interval = min(2*interval, probeMost) {
		if g.canDecide() {
			break
		}
	}
	if g.ctx.Err() != nil && !g.retired.Load() {
		return
	}
	g.closed()
	g.notices.breaker(BreakerChange{Shard: g.name, At: since, Outage: time.Since(since)})
}

// explain adds what the user lacks.
func (g *guard) explain(cause error) error {
	ctx, cancel := context.WithTimeout(g.ctx, g.budget)
	defer cancel()
	if err := g.permissions(ctx); err != nil {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return cause
}

// pause returns false if the probes are to end.
func (g *guard) pause(interval time.Duration) bool {
	select {
	case <-time.After(interval + time.Duration(rand.Float64()*probeJitter*float64(interval))):
		return true
	case <-g.ctx.Done():
		return false
	}
}

// canDecide asks the shard once, past the breaker.
func (g *guard) canDecide() bool {
	ctx, cancel := context.WithTimeout(g.ctx, g.budget)
	defer cancel()
	g.circuit.HalfOpen()
	err := g.probe(ctx)
	if err == nil && g.ctx.Err() == nil {
		return true
	}
	g.circuit.Open()
	return false
}

// probeWith asks for decisions on a key of the shard, and returns why it is failing, if it is.
func probeWith(ctx context.Context, send func(context.Context, []*group) error, key domain.BucketKey) error {
	groups := probeGroups(key)
	return judge(groups, send(ctx, groups)).cause
}

// probeGroups is what a probe asks. One limit and several are read by different commands.
func probeGroups(key domain.BucketKey) []*group {
	limits := probeLimits()
	groups := make([]*group, 2)
	for i := range groups {
		groups[i] = &group{}
		groups[i].req.Op, groups[i].req.Key, groups[i].req.Cost = domain.OpTake, key, 1
		groups[i].req.Limits = limits[:1+i]
	}
	return groups
}

// probeLimits refill within microseconds, so that a probe leaves nothing behind.
func probeLimits() []domain.Limit {
	limits := make([]domain.Limit, 2)
	for i, name := range []string{"probe", "probe-2"} {
		l, err := domain.NewLimit(name, 2, 1, time.Microsecond)
		if err != nil {
			panic("redisstore: the probe's limit: " + err.Error())
		}
		limits[i] = l
	}
	return limits
}
