package batch

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The intervals between probes of a server whose breaker is open. The first is short, for a brief disturbance; the longest
// bounds how late a recovery is noticed. They are jittered, so that a fleet does not probe a server all at once.
const (
	probeFirst = 100 * time.Millisecond
	probeMost  = 400 * time.Millisecond
)

// ProbeKey is a key that no client has: theirs hold a colon.
const ProbeKey clientkey.BucketKey = "probe"

// probeUntilBack reports that the breaker opened at the time since, probes the server until it can decide, closes the
// breaker and reports that, too. It ends early when the batcher stops.
func (b *Batcher) probeUntilBack(cause error, since time.Time) {
	kind := failure.Classify(cause).Kind
	if kind == failure.NoPerm {
		cause = b.withMissingPermissions(cause)
	}
	b.events.breakerChanged(BreakerChange{Shard: b.server.Name, Open: true, At: since, Cause: cause, Kind: kind})
	for interval := probeFirst; b.pause(interval); interval = min(2*interval, probeMost) {
		if b.probe() {
			break
		}
	}
	if b.ctx.Err() != nil && !b.retired.Load() {
		return
	}
	b.breaker.close()
	b.events.breakerChanged(BreakerChange{Shard: b.server.Name, At: since, Outage: time.Since(since)})
}

// withMissingPermissions adds to the cause which permissions the user lacks.
func (b *Batcher) withMissingPermissions(cause error) error {
	ctx, cancel := context.WithTimeout(b.ctx, b.budget)
	defer cancel()
	key, err := b.server.ProbeKey()
	if err == nil {
		err = b.CheckPermissions(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return cause
}

// pause waits for an interval with its jitter. It returns false at once when the batcher stops.
func (b *Batcher) pause(interval time.Duration) bool {
	select {
	case <-time.After(jittered(interval)):
		return true
	case <-b.ctx.Done():
		return false
	}
}

// jittered returns a duration to which up to a quarter is added.
func jittered(d time.Duration) time.Duration { return d + time.Duration(rand.Float64()*float64(d)/4) }

// probe runs the script on a probe key, past the breaker, and reports whether the server can decide.
func (b *Batcher) probe() bool {
	ctx, cancel := context.WithTimeout(b.ctx, b.budget)
	defer cancel()
	b.breaker.probing(true)
	if key, err := b.server.ProbeKey(); err == nil {
		groups := probeGroups(key)
		if outcomeOf(groups, b.ask(ctx, groups)).health == healthAlive && b.ctx.Err() == nil {
			return true
		}
	}
	b.breaker.probing(false)
	return false
}

// probeGroups returns two takes: the script reads one limit and several by different commands.
func probeGroups(key clientkey.BucketKey) []*script.Group {
	limits := make([]domain.Limit, 2)
	for i, name := range []string{"probe", "probe-2"} {
		l, err := domain.NewBucket(name, 2, 1, time.Microsecond) // full again at once, so that a probe leaves nothing behind
		if err != nil {
			panic("batch: the probe's limit: " + err.Error())
		}
		limits[i] = l
	}
	return []*script.Group{
		{Request: ports.TakeRequest{Op: domain.OpTake, Key: key, Limits: limits[:1], Cost: 1}},
		{Request: ports.TakeRequest{Op: domain.OpTake, Key: key, Limits: limits, Cost: 1}},
	}
}

// Target is a server to check: its name, which is safe to show, a probe key that it owns, and its batcher. If Err is not
// nil, the server could not be found, and there is no batcher.
type Target struct {
	Name    string
	Key     clientkey.BucketKey
	Batcher *Batcher
	Err     error
}

// ShardName returns the name of the i-th shard: never an address, since it is shown.
func ShardName(i int) string { return "shard-" + strconv.Itoa(i) }

// CheckHealth returns why the server cannot decide, if it cannot. It sends a batch with takes on a probe key that the server
// owns: a server can answer PING, yet refuse or delay every script that writes (its memory is full, it is a replica, CLIENT
// PAUSE WRITE, an ACL that lacks a command).
func (b *Batcher) CheckHealth(ctx context.Context, key clientkey.BucketKey) error {
	groups := probeGroups(key)
	reqs := []ports.TakeRequest{groups[0].Request, groups[1].Request}
	var results [2]ports.TakeResult
	b.Do(ctx, reqs, []int{0, 1}, results[:])
	return cmp.Or(results[0].Err, results[1].Err)
}

// CheckPermissions returns an error that wraps script.ErrPermissions if the user lacks permissions on a key that the server
// owns, and another error if that cannot be found out. It decides nothing.
func (b *Batcher) CheckPermissions(ctx context.Context, key clientkey.BucketKey) (err error) {
	defer b.recoverTo(&err)
	return script.CheckPermissions(ctx, b.server.Client, key)
}
