//go:build faults

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// load asks a limiter from many goroutines for a mix of clients, policies and operations, and looks at each answer as
// a client would.
type load struct {
	f       *fleet
	workers int
	clients int           // of each policy
	pace    time.Duration // between two requests of a worker
	// alone: every client has one worker, so that its operations follow each other.
	alone bool

	stop    context.CancelFunc
	running sync.WaitGroup
	paused  sync.RWMutex // held for reading while a request is under way

	decisions atomic.Int64
	byStore   [8]storeCount // by the shard
	errs      atomic.Int64  // that a client saw
	wrong     atomic.Pointer[string]
	lastFall  [8]atomic.Int64 // when a fallback answered last, in nanoseconds since the start
	lastRedis [8]atomic.Int64
	slowest   atomic.Int64 // nanoseconds
	began     time.Time
	where     [][]int // policy, client: the shard
}

// storeCount counts the answers of one shard's clients by who gave them.
type storeCount struct {
	redis, shortcut, fallback atomic.Int64
}

func startLoad(f *fleet, seed uint64, l *load) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l.f, l.stop, l.began = f, cancel, time.Now()
	for p := range policyNames {
		l.where = append(l.where, make([]int, l.clients))
		for c := range l.clients {
			l.where[p][c] = f.shardOf(bucketKey(policyNames[p], client(c)))
		}
	}
	for w := range l.workers {
		l.running.Go(func() { l.work(ctx, w, rand.New(rand.NewPCG(seed, uint64(w)))) })
	}
	return l
}

func client(i int) string { return fmt.Sprintf("client-%d", i) }

// end stops the load and waits for what is under way.
func (l *load) end() {
	l.stop()
	l.running.Wait()
}

// hold stops the load for a moment: f runs while nothing is under way.
func (l *load) hold(f func()) {
	l.paused.Lock()
	defer l.paused.Unlock()
	f()
}

func (l *load) work(ctx context.Context, w int, rnd *rand.Rand) {
	for ctx.Err() == nil {
		p, c := rnd.IntN(len(policyNames)), rnd.IntN(l.clients)
		if l.alone {
			c = w % l.clients
			p = w / l.clients % len(policyNames)
		}
		req := domain.Request{Policy: policyNames[p], Key: client(c), Op: randomOp(rnd), Cost: 1}
		if req.Op == domain.OpCharge && req.Policy != ample {
			req.Op = domain.OpTake // a debt that a server forgets is more than a capacity
		}
		if rnd.IntN(4) == 0 {
			req.Cost = 1 + domain.Tokens(rnd.IntN(3))
		}
		l.paused.RLock()
		start := time.Now()
		d, err := l.f.limiter.Decide(context.Background(), req)
		l.look(&req, &d, err, time.Since(start), l.where[p][c])
		l.paused.RUnlock()
		if l.pace > 0 {
			time.Sleep(l.pace)
		}
	}
}

func randomOp(rnd *rand.Rand) domain.Op {
	switch n := rnd.IntN(100); {
	case n < 3:
		return domain.OpRefund
	case n < 5:
		return domain.OpPeek
	case n < 6:
		return domain.OpCharge
	default:
		return domain.OpTake
	}
}

// look checks an answer, whatever happens to the servers.
func (l *load) look(req *domain.Request, d *domain.Decision, err error, took time.Duration, shard int) {
	l.decisions.Add(1)
	for {
		slowest := l.slowest.Load()
		if int64(took) <= slowest || l.slowest.CompareAndSwap(slowest, int64(took)) {
			break
		}
	}
	since := int64(time.Since(l.began))
	if err != nil {
		l.errs.Add(1)
		l.lastFall[shard].Store(since)
		l.byStore[shard].fallback.Add(1)
		if req.Op == domain.OpTake || req.Op == domain.OpPeek || !known(err) {
			l.complain("%v of %q: %v", req.Op, req.Policy, err)
		}
		return
	}
	switch d.Store {
	case domain.StoreRedis:
		l.byStore[shard].redis.Add(1)
		l.lastRedis[shard].Store(since)
	case domain.StoreShortcut:
		l.byStore[shard].shortcut.Add(1)
	case domain.StoreFallback:
		l.byStore[shard].fallback.Add(1)
		l.lastFall[shard].Store(since)
		l.lookAtFallback(req, d)
	default:
		l.complain("%q decided", d.Store)
	}
}

// known reports whether an error is one that a client may see: of a refund or a charge, which have no failure policy.
func known(err error) bool {
	return errors.Is(err, ports.ErrUnavailable) || errors.Is(err, ports.ErrOverloaded) || errors.Is(err, ports.ErrCorrupt)
}

func (l *load) lookAtFallback(req *domain.Request, d *domain.Decision) {
	ok := false
	switch failureModes[req.Policy] {
	case domain.FailOpen:
		ok = d.Outcome == domain.OutcomeAllowed || d.LevelKnown // our own overload is decided as local is
	case domain.FailClosed:
		ok = d.Outcome == domain.OutcomeUnavailable
	case domain.FailLocal:
		ok = d.Outcome != domain.OutcomeUnavailable && d.LevelKnown
	}
	if !ok {
		l.complain("the fallback of %q answered %v, level known: %v", req.Policy, d.Outcome, d.LevelKnown)
	}
}

func (l *load) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.wrong.CompareAndSwap(nil, &text)
}

// share is the part of a shard's answers that the fallback gave, of those since before.
func (l *load) share(shard int, before [3]int64) (fallback float64, answers int64) {
	now := l.counts(shard)
	answers = now[0] + now[1] + now[2] - before[0] - before[1] - before[2]
	return float64(now[2]-before[2]) / float64(max(answers, 1)), answers
}

func (l *load) counts(shard int) [3]int64 {
	c := &l.byStore[shard]
	return [3]int64{c.redis.Load(), c.shortcut.Load(), c.fallback.Load()}
}

// calm is for how long a shard must have decided without a fallback to have recovered.
const calm = 300 * time.Millisecond

// awaitRecovery waits until a shard's clients are answered by Redis again, and returns how long after now a fallback
// still answered.
func (l *load) awaitRecovery(t testing.TB, shard int) time.Duration {
	t.Helper()
	from := int64(time.Since(l.began))
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		fall, redis := l.lastFall[shard].Load(), l.lastRedis[shard].Load()
		now := int64(time.Since(l.began))
		if redis > from && redis > fall && now-max(fall, from) > int64(calm) {
			took := time.Duration(max(fall-from, 0))
			if took > recoverTimeout {
				l.explain(shard, took)
			}
			return took
		}
		if time.Now().After(deadline) {
			t.Fatalf("shard %d does not decide again: the last fallback was %v ago", shard, time.Duration(now-fall))
		}
	}
}

// explain tells how the servers have fared, all in all, when one took long to recover: a fallback for what this process
// itself has too much of counts as one of the shard.
func (l *load) explain(shard int, took time.Duration) {
	for _, s := range l.f.store.Stats() {
		progressf("shard %d took %v; %s: %s since %v, openings %d, refused %d, overloaded %d, failures %v",
			shard, took, s.Name, s.Breaker, time.Since(s.Since).Round(time.Millisecond), s.Openings, s.Refused, s.Overloaded, s.Failures)
	}
}
