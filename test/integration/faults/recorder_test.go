//go:build faults

package faults

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/invariant"
)

// recorder wraps a store and records every operation with its answer for the invariant checker.
type recorder struct {
	store ports.BucketStore
	// shardOf returns the shard of a key; nil for a store without shards.
	shardOf func(key clientkey.BucketKey) int
	// ordered means that the store's clock may be set back, and that the operations on a key run one after the other.
	ordered bool

	// checking is locked while the records are checked, and read-locked for operations: the limiter ends permits by itself.
	checking sync.RWMutex

	latest [8]atomic.Int64 // the latest time that each shard has reported
	logs   sync.Map        // clientkey.BucketKey to *bucketLog
}

var _ ports.BucketStore = (*recorder)(nil)

// bucketLog is the records of one bucket group.
type bucketLog struct {
	shard  int
	limits []domain.Limit
	// refunds is locked for a refund, and read-locked for other operations. A refund must not share its microsecond with
	// another operation, see invariant.Checker.Replay. It is always locked if the recorder is ordered.
	refunds sync.RWMutex

	mu       sync.Mutex
	records  [][]invariant.Record // by limit
	checkers []*invariant.Checker // nil for a concurrency limit
	permits  *permitLog           // of the concurrency limit; nil if there is none
}

func (rc *recorder) logOf(req *ports.TakeRequest) *bucketLog {
	if b, ok := rc.logs.Load(req.Key); ok {
		return b.(*bucketLog)
	}
	log := &bucketLog{limits: req.Limits, records: make([][]invariant.Record, len(req.Limits))}
	if rc.shardOf != nil {
		log.shard = rc.shardOf(req.Key)
	}
	for i := range req.Limits {
		if l := &req.Limits[i]; l.Concurrency() != nil {
			log.checkers = append(log.checkers, nil)
			log.permits = newPermitLog(i, l, rc.ordered)
			continue
		}
		c, err := newChecker(&req.Limits[i])
		if err != nil {
			panic(err)
		}
		c.Ordered = rc.ordered
		log.checkers = append(log.checkers, c)
	}
	b, _ := rc.logs.LoadOrStore(req.Key, log)
	return b.(*bucketLog)
}

func newChecker(l *domain.Limit) (*invariant.Checker, error) {
	if l.Quota() == nil {
		return invariant.NewChecker(checkerLimit(l))
	}
	period := l.Window(0).Microseconds()
	return invariant.NewQuotaChecker(invariant.Quota{
		Size: int64(l.Capacity()), Start: func(us int64) int64 { return us - us%period },
	})
}

// checkerLimit returns the limit of a bucket.
func checkerLimit(l *domain.Limit) invariant.Limit {
	refill, per := l.TokenBucket().Rate()
	return invariant.Limit{Capacity: int64(l.Capacity()), Refill: int64(refill), Per: per}
}

// TakeMany implements ports.BucketStore.
func (rc *recorder) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	rc.checking.RLock()
	defer rc.checking.RUnlock()
	logs := make([]*bucketLog, len(reqs))
	sent := make([]int64, len(reqs))
	for i := range reqs {
		logs[i] = rc.logOf(&reqs[i])
		sent[i] = rc.latest[logs[i].shard].Load()
	}
	rc.store.TakeMany(ctx, reqs, results)
	for i := range reqs {
		rc.write(logs[i], &reqs[i], &results[i], sent[i])
	}
}

// checkerOps are the operations of buckets. Releases settle nothing here, but like a charge they write if the clock was set back.
var checkerOps = map[domain.Op]invariant.Op{
	domain.OpTake: invariant.Take, domain.OpPeek: invariant.Peek, domain.OpRefund: invariant.Refund, domain.OpCharge: invariant.Charge,
	domain.OpUndo: invariant.Refund, domain.OpRelease: invariant.Charge, domain.OpRenew: invariant.Peek,
}

func (rc *recorder) write(b *bucketLog, req *ports.TakeRequest, result *ports.TakeResult, sent int64) {
	r := invariant.Record{
		NowUS: sent, Level: invariant.NoLevel, Op: checkerOps[req.Op], TakenUS: int64(req.TakenAt), Verdict: invariant.Lost,
	}
	if result.Err != nil {
		if !mayHaveRun(result.Err) {
			return // if it did run, the checker will find its tokens missing
		}
		b.add(func(i int) invariant.Record {
			r := r
			r.Cost = costOf(&b.limits[i], req)
			return r
		})
		b.addPermit(req, result, sent, false)
		return
	}
	for now := int64(result.Now); ; {
		latest := rc.latest[b.shard].Load()
		if now <= latest && !rc.ordered || rc.latest[b.shard].CompareAndSwap(latest, now) {
			break
		}
	}
	r.NowUS = int64(result.Now)
	if result.Verdict == domain.DebtExceeded {
		r.Op = invariant.Peek
	}
	denied := -1 // a limit that denied
	for i := range b.limits {
		if result.Verdict == domain.Denied && !b.limits[i].CanPayWithin(result.States[i], req.Cost, req.MaxWait) {
			denied = i
		}
	}
	b.add(func(i int) invariant.Record {
		r := r
		r.Level, r.Cost = level(&b.limits[i], result.States[i]), costOf(&b.limits[i], req)
		switch {
		case req.Op == domain.OpRelease || req.Op == domain.OpRenew:
			r.Cost, r.Verdict = 0, invariant.Allowed
		case result.Verdict == domain.Allowed:
			r.Verdict, r.WaitUS = invariant.Allowed, b.limits[i].Wait(result.States[i], result.Now).Microseconds()
		case i == denied || denied < 0:
			r.Verdict, r.WaitUS = invariant.Denied, req.MaxWait.Microseconds()
		default: // another limit of the group denied
			r.Cost, r.Verdict = 0, invariant.Allowed
		}
		return r
	})
	b.addPermit(req, result, sent, denied < 0 || b.permits != nil && denied == b.permits.limit)
}

// mayHaveRun reports whether an operation that failed with err may have run.
func mayHaveRun(err error) bool {
	return errors.Is(err, ports.ErrUnavailable) && !strings.Contains(err.Error(), "not carried out")
}

// costOf returns what an operation takes from a limit or gives back to it.
func costOf(l *domain.Limit, req *ports.TakeRequest) int64 {
	if l.Cost() > 0 && (req.Op == domain.OpRefund || req.Op == domain.OpCharge) {
		return 0
	}
	return int64(l.CostOf(req.Cost))
}

func level(l *domain.Limit, b domain.State) int64 {
	if l.Quota() != nil {
		return int64(l.Capacity()) - int64(b.Amount)
	}
	limit := checkerLimit(l)
	return limit.Units(int64(b.Amount), int64(l.TokenBucket().TokenCredits()))
}

func (b *bucketLog) add(record func(limit int) invariant.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.records {
		if b.checkers[i] != nil {
			b.records[i] = append(b.records[i], record(i))
		}
	}
}

// addPermit records an operation on the concurrency limit, if there is one. denied says that this limit denied a take.
func (b *bucketLog) addPermit(req *ports.TakeRequest, result *ports.TakeResult, sent int64, denied bool) {
	if b.permits == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.permits.write(req, result, sent, denied)
}

// cacheRecorder wraps the denial cache and records the denials that the cache answers. It runs refunds alone.
type cacheRecorder struct {
	cache    ports.BucketStore
	recorder *recorder
}

var _ ports.BucketStore = (*cacheRecorder)(nil)

// TakeMany implements ports.BucketStore.
func (r *cacheRecorder) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	inOrder := slices.Clone(reqs) // so that no two calls wait for each other
	slices.SortFunc(inOrder, func(a, b ports.TakeRequest) int { return cmp.Compare(a.Key, b.Key) })
	for i := range inOrder {
		if i > 0 && inOrder[i].Key == inOrder[i-1].Key {
			continue // a call that has two of a bucket ends permits
		}
		refunds := &r.recorder.logOf(&inOrder[i]).refunds
		if inOrder[i].Op == domain.OpRefund || r.recorder.ordered {
			refunds.Lock()
			defer refunds.Unlock()
		} else {
			refunds.RLock()
			defer refunds.RUnlock()
		}
	}
	before := make([]int64, len(reqs))
	for i := range reqs {
		before[i] = r.recorder.latest[r.recorder.logOf(&reqs[i]).shard].Load()
	}
	r.cache.TakeMany(ctx, reqs, results)
	for i := range reqs {
		b := r.recorder.logOf(&reqs[i])
		if results[i].Err != nil || results[i].Store != decision.StoreShortcut || len(b.limits) > 1 {
			continue // with several limits the answer does not show which denied
		}
		// Of an ordered recorder, the latest time can be earlier than before: the answer of an earlier batch came later.
		span := max(1, r.recorder.latest[b.shard].Load()-before[i]+1)
		b.add(func(int) invariant.Record {
			return invariant.Record{
				NowUS: before[i], SpanUS: span, Level: invariant.NoLevel, Op: invariant.Take, Cost: costOf(&b.limits[0], &reqs[i]),
				Verdict: invariant.Denied, WaitUS: reqs[i].MaxWait.Microseconds(),
			}
		})
	}
}

// findings is the result of checking the records.
type findings struct {
	invariant.Report
	// BeyondBound is the number of extra tokens and permits beyond the bound of the data that the servers may have lost.
	BeyondBound int64
	// ShareOfBound is the largest share of its bound that one limit of a client gained.
	ShareOfBound float64
	// Quotas is the part of the report that is about quotas.
	Quotas            invariant.Report
	QuotasBeyondBound int64
	Permits           permitFindings
}

// bounded notes what a limit of a client gained, and returns the part that is beyond the bound of lost data.
func (f *findings) bounded(extra, bound int64) (beyond int64) {
	beyond = max(0, extra-bound)
	f.BeyondBound += beyond
	if bound > 0 {
		f.ShareOfBound = max(f.ShareOfBound, float64(extra)/float64(bound))
	}
	return beyond
}

// extra returns the tokens beyond the invariant, by levels or by verdicts, whichever is more.
func (f *findings) extra() int64 { return max(f.Gained, f.OverAdmitted) }

// loss is the data that the servers may have lost. It bounds the tokens that a limit may gain.
type loss struct {
	// Times is how often a limit may have become full by a loss of data, or a quota by a clock that goes ahead after it came
	// back.
	Times int
	// Split is how long there were two primaries.
	Split time.Duration
}

// bound returns the tokens or permits that a client may have gained by a limit, as stated in docs/reliability.md.
func (x loss) bound(l *domain.Limit) int64 {
	bound := int64(x.Times) * int64(l.Capacity())
	switch {
	case x.Split == 0:
	case l.Concurrency() != nil:
		bound += int64(l.Capacity())
	case l.Quota() != nil:
		bound += int64(l.Capacity()) * (1 + int64((x.Split+l.Window(0)-1)/l.Window(0)))
	default:
		refill, per := l.TokenBucket().Rate()
		bound += int64(l.Capacity()) + (int64(refill)*int64(x.Split)+int64(per)-1)/int64(per)
	}
	return bound
}

// check checks the records since the last call. It waits for the operations in progress. noneInFlight reports whether no lost
// operation of a shard can still run. lost returns what a shard may have lost since the start.
func (rc *recorder) check(noneInFlight func(shard int) bool, lost func(shard int) loss) findings {
	rc.checking.Lock()
	defer rc.checking.Unlock()
	var found findings
	rc.logs.Range(func(_, value any) bool {
		b := value.(*bucketLog)
		b.check(&found, noneInFlight(b.shard), rc.latest[b.shard].Load(), lost(b.shard))
		return true
	})
	return found
}

// check adds the result for a bucket group to found. now is the latest time of its store.
func (b *bucketLog) check(found *findings, noneInFlight bool, now int64, lost loss) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.permits; p != nil {
		p.checker.Replay(p.records)
		p.records = nil
		if noneInFlight {
			p.checker.NoneInFlight(now)
		}
		p.report(found, lost, lost.bound(&b.limits[p.limit]))
	}
	for i, c := range b.checkers {
		if c == nil {
			continue
		}
		c.Replay(b.records[i])
		b.records[i] = nil
		if noneInFlight {
			c.NoneInFlight()
		}
		report := c.Report()
		found.Add(report)
		beyond := found.bounded(max(report.Gained, report.OverAdmitted), lost.bound(&b.limits[i]))
		if b.limits[i].Quota() != nil {
			found.Quotas.Add(report)
			found.QuotasBeyondBound += beyond
		}
	}
}

// anyShard stands for all shards.
const anyShard = -1

// peek reads every recorded bucket of a shard, so that the checker sees its level.
func (rc *recorder) peek(ctx context.Context, shard int) error {
	var errs []error
	rc.logs.Range(func(key, value any) bool {
		b := value.(*bucketLog)
		if shard != anyShard && b.shard != shard {
			return true
		}
		b.refunds.Lock()
		defer b.refunds.Unlock()
		r := ports.Take(ctx, rc, ports.TakeRequest{Op: domain.OpPeek, Key: key.(clientkey.BucketKey), Limits: b.limits})
		if r.Err != nil {
			errs = append(errs, r.Err)
		}
		return true
	})
	return errors.Join(errs...)
}
