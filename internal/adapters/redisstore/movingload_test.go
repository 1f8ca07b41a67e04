package redisstore_test

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/invariant"
)

// group is the limits of a client, and how long its takes may wait.
type group struct {
	limits  []domain.Limit
	maxWait time.Duration
}

// groups have limits of all kinds, and a bucket that requests wait for. Permits are keys of their own: one group has those
// alone, and one has them beside the Hash.
func groups(t *testing.T) map[string]group {
	t.Helper()
	bucket, waits := limit(t, "burst", "1/h", 40), limit(t, "waits", "1/s", 2)
	quota, held := daily(t, 60), concurrency(t, "held", 2, time.Hour)
	return map[string]group{
		"hash":    {limits: []domain.Limit{bucket, quota}},
		"waiting": {limits: []domain.Limit{waits, quota}, maxWait: 2 * time.Second},
		"permits": {limits: []domain.Limit{held}},
		"all":     {limits: []domain.Limit{bucket, quota, held}},
	}
}

// daily is a quota of a day that began an hour ago, so that none begins during a test.
func daily(t *testing.T, tokens domain.Tokens) domain.Limit {
	t.Helper()
	schedule, err := calendar.Parse("day", "", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
	require.NoError(t, err)
	l, err := domain.NewQuota("daily", tokens, schedule)
	require.NoError(t, err)
	return l
}

// movingClient is a client under load. It notes each answer, for the checkers of the limits.
type movingClient struct {
	name string
	group
	permit int // the index of the limit with permits, or -1

	answers, refused atomic.Int64 // of all operations, and those that the store refused to carry out

	// These are the load's while it runs.
	held    []string // permits, the oldest first
	records [][]invariant.Record
	permits []invariant.PermitRecord
}

func newMovingClient(name string, g group) *movingClient {
	return &movingClient{
		name: name, group: g, records: make([][]invariant.Record, len(g.limits)),
		permit: slices.IndexFunc(g.limits, func(l domain.Limit) bool { return l.Kind() == domain.KindConcurrency }),
	}
}

// use takes, refunds and releases until stop is closed.
func (w *movingClient) use(t *testing.T, s ports.BucketStore, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		req := withPermit(fmt.Sprintf("%s.%d", w.name, i), take(w.name, 1, w.limits...))
		req.MaxWait = w.maxWait
		r, ok := w.ask(t, s, req)
		passed := ok && r.Verdict == domain.Allowed
		if passed && w.permit != 0 && i%4 != 0 { // so that something is debited during all of the moves
			back := take(w.name, 1, w.limits...)
			back.Op, back.TakenAt = domain.OpRefund, r.Now
			w.ask(t, s, back)
		}
		if w.permit < 0 {
			continue
		}
		if passed {
			w.held = append(w.held, req.Permit)
		}
		if len(w.held) > i%3 {
			end := withPermit(w.held[0], take(w.name, 0, w.limits...))
			end.Op = domain.OpRelease
			if _, ok := w.ask(t, s, end); ok {
				w.held = w.held[1:]
			}
		}
	}
}

// ask reports false if the store did not carry out the operation. That is right only while some of the client's keys have moved.
func (w *movingClient) ask(t *testing.T, s ports.BucketStore, req ports.TakeRequest) (ports.TakeResult, bool) {
	r := ports.Take(t.Context(), s, req)
	defer w.answers.Add(1)
	if r.Err != nil {
		w.refused.Add(1)
		assert.ErrorContains(t, r.Err, "not carried out: TRYAGAIN")
		return r, false
	}
	w.note(&req, &r)
	return r, true
}

func (w *movingClient) note(req *ports.TakeRequest, r *ports.TakeResult) {
	denier := -1
	for i := range w.limits {
		if r.Verdict == domain.Denied && req.Op == domain.OpTake && !w.limits[i].CanPayWithin(r.States[i], req.Cost, req.MaxWait) {
			denier = i
		}
	}
	for i := range w.limits {
		if i == w.permit {
			w.permits = append(w.permits, permitRecord(req, r, r.States[i], denier < 0 || denier == i))
			continue
		}
		record := invariant.Record{
			NowUS: int64(r.Now), Level: levelOf(&w.limits[i], r.States[i]), TakenUS: int64(req.TakenAt), Cost: int64(req.Cost),
			Verdict: invariant.Allowed,
		}
		switch {
		case req.Op == domain.OpRefund:
			record.Op = invariant.Refund
		case req.Op != domain.OpTake:
			record.Op = invariant.Peek
		case r.Verdict == domain.Allowed:
			record.WaitUS = w.limits[i].Wait(r.States[i], r.Now).Microseconds()
		case denier < 0 || denier == i:
			record.Verdict, record.WaitUS = invariant.Denied, req.MaxWait.Microseconds()
		default: // another limit denied
			record.Cost = 0
		}
		w.records[i] = append(w.records[i], record)
	}
}

func levelOf(l *domain.Limit, s domain.State) int64 {
	if l.Kind() == domain.KindQuota {
		return int64(l.Remaining(s))
	}
	counted := bucketInvariant(l)
	return counted.Units(int64(s.Amount), int64(l.TokenBucket().TokenCredits()))
}

func bucketInvariant(l *domain.Limit) invariant.Limit {
	refill, per := l.TokenBucket().Rate()
	return invariant.Limit{Capacity: int64(l.Capacity()), Refill: int64(refill), Per: per}
}

func permitRecord(req *ports.TakeRequest, r *ports.TakeResult, s domain.State, denied bool) invariant.PermitRecord {
	record := invariant.PermitRecord{NowUS: int64(r.Now), ID: req.Permit, Op: invariant.Count, Verdict: invariant.Allowed, Held: int(s.Amount)}
	switch {
	case req.Op == domain.OpRelease:
		record.Op = invariant.Release
	case req.Op == domain.OpTake && (r.Verdict == domain.Allowed || denied):
		record.Op = invariant.Grant
	}
	if r.Verdict == domain.Denied && record.Op != invariant.Count {
		record.Verdict = invariant.Denied
	}
	return record
}

// totals are what the clients did.
type totals struct {
	answers, refused int64
	invariant.Report
	permits invariant.PermitReport
}

// check replays the answers, the last of which is what the store has now. It requires that the invariants hold, and that exactly
// the permits are held whose holders have not released them.
func (w *movingClient) check(t *testing.T, s ports.BucketStore, sum *totals) {
	t.Helper()
	peek := take(w.name, 0, w.limits...)
	peek.Op = domain.OpPeek
	if _, ok := w.ask(t, s, peek); !assert.True(t, ok, w.name) {
		return
	}
	for i := range w.limits {
		if i == w.permit {
			assert.ElementsMatch(t, w.held, w.listed(t, s), "%s: permits held", w.name)
			checker, err := invariant.NewPermitChecker(invariant.Concurrency{
				Size: int(w.limits[i].Capacity()), Lease: w.limits[i].Concurrency().Lease(),
			})
			require.NoError(t, err)
			checker.Replay(w.permits)
			report := checker.Report()
			assert.Empty(t, report.First, w.name)
			sum.permits.Add(report)
			continue
		}
		checker, err := newChecker(&w.limits[i])
		require.NoError(t, err)
		checker.Replay(w.records[i])
		report := checker.Report()
		assert.Empty(t, report.First, "%s: %s", w.name, w.limits[i].Name())
		sum.Add(report)
	}
	sum.answers += w.answers.Load()
	sum.refused += w.refused.Load()
}

func newChecker(l *domain.Limit) (*invariant.Checker, error) {
	if l.Kind() == domain.KindQuota {
		return invariant.NewQuotaChecker(invariant.Quota{Size: int64(l.Capacity()), Start: func(int64) int64 { return 0 }})
	}
	return invariant.NewChecker(bucketInvariant(l))
}

// listed are the permits that the store lists.
func (w *movingClient) listed(t *testing.T, s ports.BucketStore) (ids []string) {
	t.Helper()
	list := take(w.name, 0, w.limits...)
	list.Op = domain.OpList
	r := ports.Take(t.Context(), s, list)
	require.NoError(t, r.Err)
	for _, p := range r.Permits[w.permit] {
		ids = append(ids, p.ID)
	}
	return ids
}

// movingLoad is clients that use a store while slots move.
type movingLoad struct {
	t       *testing.T
	store   *redisstore.Store
	clients []*movingClient
	end     func()
}

// startLoad starts one worker for each client, so that its answers are in order.
func startLoad(t *testing.T, s *redisstore.Store, clients []*movingClient) *movingLoad {
	t.Helper()
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, w := range clients {
		running.Go(func() { w.use(t, s, stop) })
	}
	return &movingLoad{t, s, clients, sync.OnceFunc(func() {
		close(stop)
		running.Wait()
	})}
}

// awaitAnswers waits until each of the clients has so many more answers.
func (l *movingLoad) awaitAnswers(n int64, clients ...*movingClient) {
	l.t.Helper()
	for _, w := range clients {
		want := w.answers.Load() + n
		require.Eventually(l.t, func() bool { return w.answers.Load() >= want }, patient, time.Millisecond, w.name)
	}
}

// finish ends the load and checks all of its answers.
func (l *movingLoad) finish() totals {
	l.t.Helper()
	l.end()
	var sum totals
	for _, w := range l.clients {
		w.check(l.t, l.store, &sum)
		if w.permit < 0 || len(w.limits) == 1 {
			assert.Zero(l.t, w.refused.Load(), "%s: its keys move at once", w.name)
		}
	}
	require.Positive(l.t, sum.Admitted)
	require.Positive(l.t, sum.Denied)
	require.Positive(l.t, sum.permits.Granted)
	require.Positive(l.t, sum.permits.Denied)
	return sum
}

// named returns a client of each group, in a fixed order, for each name that name returns.
func named(t *testing.T, each int, name func(group string, number int) string) (clients []*movingClient) {
	t.Helper()
	made := groups(t)
	for _, g := range slices.Sorted(maps.Keys(made)) {
		for i := range each {
			clients = append(clients, newMovingClient(name(g, i), made[g]))
		}
	}
	return clients
}
