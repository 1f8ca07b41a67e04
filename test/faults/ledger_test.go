//go:build faults

package faults

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/law"
)

// ledger stands before a store and writes down every operation and its answer, for the law.
type ledger struct {
	store ports.BucketStore
	// shardOf is where a key is kept; nil if there is but one place.
	shardOf func(key domain.BucketKey) int
	// ordered: the store's clock may be set back, and no two operations on a key are ever under way at once.
	ordered bool

	latest [8]atomic.Int64 // the latest time of each shard that an answer told
	books  sync.Map        // domain.BucketKey to *book
}

var _ ports.BucketStore = (*ledger)(nil)

// book is what happened to one bucket group.
type book struct {
	shard  int
	limits []domain.Limit
	// gate is for refunds: they must not be decided at the same instant as another operation, see law.Meter.Play.
	gate sync.RWMutex

	mu      sync.Mutex
	records [][]law.Record // per limit
	meters  []*law.Meter
}

func (l *ledger) bookOf(req *ports.TakeRequest) *book {
	if b, ok := l.books.Load(req.Key); ok {
		return b.(*book)
	}
	made := &book{limits: req.Limits, records: make([][]law.Record, len(req.Limits))}
	if l.shardOf != nil {
		made.shard = l.shardOf(req.Key)
	}
	for i := range req.Limits {
		m, err := law.NewMeter(lawLimit(&req.Limits[i]))
		if err != nil {
			panic(err)
		}
		m.Ordered = l.ordered
		made.meters = append(made.meters, m)
	}
	b, _ := l.books.LoadOrStore(req.Key, made)
	return b.(*book)
}

func lawLimit(l *domain.Limit) law.Limit {
	refill, per := l.Rate()
	return law.Limit{Capacity: int64(l.Capacity()), Refill: int64(refill), Per: per}
}

// TakeMany implements ports.BucketStore.
func (l *ledger) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	books := make([]*book, len(reqs))
	sent := make([]int64, len(reqs))
	for i := range reqs {
		books[i] = l.bookOf(&reqs[i])
		sent[i] = l.latest[books[i].shard].Load()
	}
	l.store.TakeMany(ctx, reqs, results)
	for i := range reqs {
		l.write(books[i], &reqs[i], &results[i], sent[i])
	}
}

var lawOps = map[domain.Op]law.Op{
	domain.OpTake: law.Take, domain.OpPeek: law.Peek, domain.OpRefund: law.Refund, domain.OpCharge: law.Charge,
}

func (l *ledger) write(b *book, req *ports.TakeRequest, result *ports.TakeResult, sent int64) {
	r := law.Record{NowUS: sent, Level: law.NoLevel, Op: lawOps[req.Op], Cost: int64(req.Cost), Verdict: law.Lost}
	if result.Err != nil {
		if !mayHaveRun(result.Err) {
			return // and if it did run, its tokens will be missing
		}
		b.add(func(int) law.Record { return r })
		return
	}
	for now := int64(result.Now); ; {
		latest := l.latest[b.shard].Load()
		if now <= latest && !l.ordered || l.latest[b.shard].CompareAndSwap(latest, now) {
			break
		}
	}
	r.NowUS = int64(result.Now)
	if result.Verdict == domain.DebtExceeded {
		r.Op = law.Peek
	}
	poor := -1 // a limit that denied
	for i := range b.limits {
		if result.Verdict == domain.Denied && !b.limits[i].Affords(result.Buckets[i], req.Cost) {
			poor = i
		}
	}
	b.add(func(i int) law.Record {
		r := r
		r.Level = level(&b.limits[i], result.Buckets[i])
		switch {
		case result.Verdict == domain.Allowed:
			r.Verdict = law.Allowed
		case i == poor || poor < 0:
			r.Verdict = law.Denied
		default: // another limit of the group denied
			r.Cost, r.Verdict = 0, law.Allowed
		}
		return r
	})
}

// mayHaveRun is what an error of the store says of its operation.
func mayHaveRun(err error) bool {
	return errors.Is(err, ports.ErrUnavailable) && !strings.Contains(err.Error(), "not carried out")
}

func level(l *domain.Limit, b domain.Bucket) int64 {
	limit := lawLimit(l)
	return limit.Units(int64(b.Credits), int64(l.TokenCredits()))
}

func (b *book) add(record func(limit int) law.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.records {
		b.records[i] = append(b.records[i], record(i))
	}
}

// repeats stands before a shortcut and writes down the denials that it gave by itself. It lets refunds through alone.
type repeats struct {
	shortcut ports.BucketStore
	ledger   *ledger
}

var _ ports.BucketStore = (*repeats)(nil)

// TakeMany implements ports.BucketStore.
func (r *repeats) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	before := make([]int64, len(reqs))
	for i := range reqs { // mostly one; never two of one bucket
		gate := &r.ledger.bookOf(&reqs[i]).gate
		if reqs[i].Op == domain.OpRefund {
			gate.Lock()
			defer gate.Unlock()
		} else {
			gate.RLock()
			defer gate.RUnlock()
		}
		before[i] = r.ledger.latest[r.ledger.bookOf(&reqs[i]).shard].Load()
	}
	r.shortcut.TakeMany(ctx, reqs, results)
	for i := range reqs {
		b := r.ledger.bookOf(&reqs[i])
		if results[i].Err != nil || results[i].Store != domain.StoreShortcut || len(b.limits) > 1 {
			continue // of several limits it does not tell which denied
		}
		span := r.ledger.latest[b.shard].Load() - before[i] + 1
		b.add(func(int) law.Record {
			return law.Record{
				NowUS: before[i], SpanUS: span, Level: law.NoLevel, Op: law.Take, Cost: int64(reqs[i].Cost), Verdict: law.Denied,
			}
		})
	}
}

// finding is what the law found.
type finding struct {
	law.Report
	// Beyond is the tokens that were gained or admitted beyond the bound of what the servers may have lost.
	Beyond int64
	// Worst is the largest part of its bound that one bucket has gained.
	Worst float64
}

// extra is the tokens beyond the law: those that were gained, and those that were admitted though nothing was gained.
func (f *finding) extra() int64 { return max(f.Gained, f.OverAdmitted) }

// loss is what the servers may have lost of what they knew: what a bucket may have gained by it is its bound.
type loss struct {
	// Times is how often a bucket may have become full.
	Times int
	// Split is for how long there were two primaries.
	Split time.Duration
}

// bound is how many tokens a bucket may have gained, as docs/reliability.md says for each kind of loss.
func (x loss) bound(l *domain.Limit) int64 {
	bound := int64(x.Times) * int64(l.Capacity())
	if x.Split > 0 {
		refill, per := l.Rate()
		bound += int64(l.Capacity()) + (int64(refill)*int64(x.Split)+int64(per)-1)/int64(per)
	}
	return bound
}

// judge plays all that has been written since the last time. Nothing may be under way. settled says of which shards what
// was lost cannot run any more, lost what a shard may have lost since the beginning.
func (l *ledger) judge(settled func(shard int) bool, lost func(shard int) loss) finding {
	var found finding
	l.books.Range(func(_, value any) bool {
		b := value.(*book)
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, m := range b.meters {
			m.Play(b.records[i])
			b.records[i] = nil
			if settled(b.shard) {
				m.Settled()
			}
			report := m.Report()
			found.Add(report)
			extra, bound := max(report.Gained, report.OverAdmitted), lost(b.shard).bound(&b.limits[i])
			found.Beyond += max(0, extra-bound)
			if bound > 0 {
				found.Worst = max(found.Worst, float64(extra)/float64(bound))
			}
		}
		return true
	})
	return found
}

// anyShard stands for all of them.
const anyShard = -1

// peek asks the store for every bucket of a shard that is in the ledger, so that what was debited is seen.
func (l *ledger) peek(ctx context.Context, shard int) error {
	var errs []error
	l.books.Range(func(key, value any) bool {
		b := value.(*book)
		if shard != anyShard && b.shard != shard {
			return true
		}
		r := ports.Take(ctx, l, ports.TakeRequest{Op: domain.OpPeek, Key: key.(domain.BucketKey), Limits: b.limits})
		if r.Err != nil {
			errs = append(errs, r.Err)
		}
		return true
	})
	return errors.Join(errs...)
}
