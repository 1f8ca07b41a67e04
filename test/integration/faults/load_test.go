//go:build faults

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// load sends a mix of clients, policies and operations to a limiter from many goroutines, and checks each answer as a
// client would.
type load struct {
	f       *fleet
	workers int
	clients int           // per policy
	pace    time.Duration // between two requests of a worker
	// sequential means that every client has one worker, so that its operations run one after the other.
	sequential bool

	stop    context.CancelFunc
	running sync.WaitGroup
	paused  sync.RWMutex // held for reading during a request

	decisions    atomic.Int64
	byStore      [8]storeCount // by shard
	errs         atomic.Int64  // seen by clients
	wrong        atomic.Pointer[string]
	lastFallback [8]atomic.Int64 // time of the last fallback answer, in nanoseconds since the start
	lastRedis    [8]atomic.Int64
	slowest      atomic.Int64 // nanoseconds
	began        time.Time
	shards       [][]int          // by policy and client
	taken        [][]atomic.Int64 // by policy and client, the time of some earlier take
}

// storeCount counts the answers to the clients of one shard by their origin.
type storeCount struct {
	redis, cached, fallback atomic.Int64
}

func startLoad(f *fleet, seed uint64, l *load) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l.f, l.stop, l.began = f, cancel, time.Now()
	for p := range policyNames {
		l.shards, l.taken = append(l.shards, make([]int, l.clients)), append(l.taken, make([]atomic.Int64, l.clients))
		for c := range l.clients {
			l.shards[p][c] = f.shardOf(bucketKey(policyNames[p], client(c)))
		}
	}
	for w := range l.workers {
		l.running.Go(func() { l.work(ctx, w, rand.New(rand.NewPCG(seed, uint64(w)))) })
	}
	return l
}

func client(i int) string { return fmt.Sprintf("client-%d", i) }

// end stops the load and waits for requests in progress.
func (l *load) end() {
	l.stop()
	l.running.Wait()
}

// whilePaused runs f while no request is in progress.
func (l *load) whilePaused(f func()) {
	l.paused.Lock()
	defer l.paused.Unlock()
	f()
}

func (l *load) work(ctx context.Context, w int, rnd *rand.Rand) {
	permits := &holder{l: l, rnd: rnd}
	for ctx.Err() == nil {
		p, c := rnd.IntN(len(policyNames)), rnd.IntN(l.clients)
		if l.sequential {
			c = w % l.clients
			p = w / l.clients % len(policyNames)
		}
		req := policy.Request{Policy: policyNames[p], Key: client(c), Op: randomOp(rnd), Cost: 1, HoldsPermit: true}
		if req.Op == domain.OpCharge && req.Policy != ample {
			req.Op = domain.OpTake // a lost debt is worth more than the capacity, which is the bound
		}
		if req.Op == domain.OpRefund && l.sequential && !slices.Contains(oneLimit, req.Policy) {
			req.Op = domain.OpTake // the answer does not show whether the store wrote the limits that were full
		}
		if rnd.IntN(4) == 0 {
			req.Cost = 1 + domain.Tokens(rnd.IntN(3))
		}
		if rnd.IntN(2) == 0 { // the take that is refunded may be from before a quota's period
			req.TakenAt = domain.Instant(l.taken[p][c].Load())
		}
		l.paused.RLock()
		start := time.Now()
		d, err := l.f.limiter.Decide(context.Background(), req)
		l.checkAnswer(&req, &d, err, time.Since(start), l.shards[p][c])
		if rnd.IntN(200) == 0 || l.taken[p][c].Load() == 0 {
			l.taken[p][c].Store(int64(d.At))
		}
		permits.add(d.Permit)
		permits.step()
		l.paused.RUnlock()
		if l.pace > 0 {
			time.Sleep(l.pace)
		} else {
			runtime.Gosched() // else a worker that is answered without a store keeps its processor, and probes and proxies wait
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

// checkAnswer checks and counts an answer. The checks hold whatever fault is active.
func (l *load) checkAnswer(req *policy.Request, d *decision.Decision, err error, took time.Duration, shard int) {
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
		l.lastFallback[shard].Store(since)
		l.byStore[shard].fallback.Add(1)
		if req.Op == domain.OpTake || req.Op == domain.OpPeek || !known(err) {
			l.reportWrong("%v of %q: %v", req.Op, req.Policy, err)
		}
		return
	}
	switch d.Store {
	case decision.StoreRedis:
		l.byStore[shard].redis.Add(1)
		l.lastRedis[shard].Store(since)
	case decision.StoreShortcut:
		l.byStore[shard].cached.Add(1)
	case decision.StoreFallback:
		l.byStore[shard].fallback.Add(1)
		l.lastFallback[shard].Store(since)
		l.checkFallback(req, d)
	default:
		l.reportWrong("%q decided", d.Store)
	}
}

// known reports whether clients may see an error. Refunds and charges have no failure policy, so they may fail.
func known(err error) bool {
	return errors.Is(err, ports.ErrUnavailable) || errors.Is(err, ports.ErrOverloaded) || errors.Is(err, ports.ErrCorrupt)
}

func (l *load) checkFallback(req *policy.Request, d *decision.Decision) {
	ok := false
	switch failureModes[req.Policy] {
	case policy.FailOpen:
		ok = d.Outcome == decision.OutcomeAllowed || d.LevelKnown // overload is decided as by FailLocal
	case policy.FailClosed:
		ok = d.Outcome == decision.OutcomeUnavailable
	case policy.FailLocal:
		ok = d.Outcome != decision.OutcomeUnavailable && d.LevelKnown
	}
	if !ok {
		l.reportWrong("the fallback of %q answered %v, level known: %v", req.Policy, d.Outcome, d.LevelKnown)
	}
}

func (l *load) reportWrong(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.wrong.CompareAndSwap(nil, &text)
}

// fallbackShare returns the share of the fallback in a shard's answers since the counts before. The denial cache may repeat
// a quota's denial for a second, whatever the store does: its answers do not count.
func (l *load) fallbackShare(shard int, before [3]int64) (fallback float64, answers int64) {
	now := l.counts(shard)
	answers = now[0] + now[2] - before[0] - before[2]
	return float64(now[2]-before[2]) / float64(max(answers, 1)), answers
}

func (l *load) counts(shard int) [3]int64 {
	c := &l.byStore[shard]
	return [3]int64{c.redis.Load(), c.cached.Load(), c.fallback.Load()}
}

// recoveredAfter is how long a shard must answer without a fallback to count as recovered.
const recoveredAfter = 300 * time.Millisecond

// awaitRecovery waits until Redis answers a shard's clients again. It returns the time from the call to the last
// fallback answer.
func (l *load) awaitRecovery(t testing.TB, shard int) time.Duration {
	t.Helper()
	from := int64(time.Since(l.began))
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(2 * time.Millisecond) {
		fall, redis := l.lastFallback[shard].Load(), l.lastRedis[shard].Load()
		now := int64(time.Since(l.began))
		if redis > from && redis > fall && now-max(fall, from) > int64(recoveredAfter) {
			took := time.Duration(max(fall-from, 0))
			if took > recoverTimeout {
				l.logStats(shard, took)
			}
			return took
		}
		if time.Now().After(deadline) {
			t.Fatalf("shard %d did not recover: the last fallback was %v ago", shard, time.Duration(now-fall))
		}
	}
}

// logStats prints the statistics of all shards after a slow recovery. They separate an outage of the shard from overload of
// this process, which also counts as a fallback.
func (l *load) logStats(shard int, took time.Duration) {
	for _, s := range l.f.store.Stats() {
		progressf("shard %d took %v; %s: %s since %v, openings %d, refused %d, overloaded %d, failures %v",
			shard, took, s.Name, s.Breaker, time.Since(s.Since).Round(time.Millisecond), s.Openings, s.Refused, s.Overloaded, s.Failures)
	}
}
