package overrides

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
)

const (
	// pollInterval is how often each server is asked for changes. A change is so in force everywhere after 50 ms in the mean.
	pollInterval = 100 * time.Millisecond
	// retryInterval is the same for a server that does not answer.
	retryInterval = 250 * time.Millisecond
	// pollChanges is how many changes one reply has at most.
	pollChanges = 256
	// patience is how many replies in a row must show the same difference before the copies are compared. Changes that are
	// under way end it sooner. Each time it is a random number of replies more, so that one process, not all, repairs a server.
	patience, patienceSpread = 3, 6
	// longDifference is how long the copies may differ while they change all the time.
	longDifference = 5 * time.Second
	// compareInterval is how often they are compared though nothing seems wrong: someone may have edited the Hash.
	compareInterval = 10 * time.Minute
	// pushEntries is how many entries one call writes.
	pushEntries = 100

	unknown = int64(-1)            // no change of the server is known
	newest  = int64(math.MaxInt32) // asks for no changes
)

// follower follows one server.
type follower struct {
	Server
	store *Store

	after    int64 // the number of the last change that was merged, or unknown
	compared time.Time

	differs struct { // of the last reply
		table, server uint64
		replies, most int
		since         time.Time
	}
}

func (f *follower) follow(ctx context.Context) {
	for ctx.Err() == nil {
		wait := pollInterval
		if err := f.poll(ctx); err != nil {
			wait = retryInterval
		}
		if !sleep(ctx, jitter(wait)) {
			return
		}
	}
}

// poll merges what has changed on the server.
func (f *follower) poll(ctx context.Context) error {
	if f.after == unknown || time.Since(f.compared) > compareInterval {
		return f.compare(ctx)
	}
	for {
		began := time.Now()
		call, cancel := context.WithTimeout(ctx, Timeout)
		st, err := f.read(call, f.after, pollChanges, "")
		cancel()
		if err != nil {
			return err
		}
		if st.to == unknown {
			return f.compare(ctx)
		}
		f.store.table.Merge(st.changes...)
		f.after = st.to
		if st.to < st.number {
			continue
		}
		f.store.complete(began, st.now)
		if f.mustCompare(st.stats.Sum) {
			return f.compare(ctx)
		}
		return nil
	}
}

// mustCompare reports whether the server has differed from the table for long enough.
func (f *follower) mustCompare(server uint64) bool {
	d, table := &f.differs, f.store.table.Stats().Sum
	if table == server {
		d.replies, d.since = 0, time.Time{}
		return false
	}
	if d.since.IsZero() {
		d.since = time.Now()
	}
	if d.replies == 0 || d.table != table || d.server != server {
		d.table, d.server, d.replies = table, server, 0
		d.most = patience + rand.IntN(patienceSpread) //nolint:gosec // not a secret
	}
	d.replies++
	return d.replies >= d.most || time.Since(d.since) > longDifference
}

// compare reads all entries of the server, merges those that are newer, and writes back those that the server lacks.
func (f *follower) compare(ctx context.Context) error {
	began := time.Now()
	st, err := f.read(ctx, newest, 0, "")
	if err != nil {
		return err
	}
	table := f.store.table
	has := make(map[clientkey.BucketKey]uint64, st.stats.Entries) // the hashes of the server's entries
	var found override.Stats
	err = f.scan(ctx, func(entries []override.Entry) {
		table.Merge(entries...)
		for i := range entries {
			if _, twice := has[entries[i].Key]; !twice {
				has[entries[i].Key] = entries[i].Hash()
				add(&found, &entries[i])
			}
		}
	})
	if err != nil && (st.number != 0 || !isForbidden(err)) {
		return err
	}
	if found != st.stats {
		if err := f.correct(ctx, st.number, found); err != nil { // does nothing if there was a change meanwhile
			return err
		}
	}
	var lacks []override.Entry
	table.All(func(e override.Entry) {
		if hash, ok := has[e.Key]; (!ok || hash != e.Hash()) && !e.Forgotten(st.now) {
			lacks = append(lacks, e)
		}
	})
	f.after, f.compared, f.differs.replies, f.differs.since = st.number, time.Now(), 0, time.Time{}
	f.store.complete(began, st.now)
	return f.push(ctx, opPut, lacks)
}

// isForbidden reports whether the user may not read the whole Hash. The rules for users of releases without overrides do not allow
// it; that must not keep a process from working where no overrides were ever set.
func isForbidden(err error) bool { return failure.Classify(err).Kind == failure.NoPerm }

func add(s *override.Stats, e *override.Entry) {
	s.Sum = (s.Sum + e.Hash()) & (1<<override.HashBits - 1)
	s.Entries++
	s.Bytes += len(e.Key) + len(e.Text())
	if !e.Ended {
		s.Live++
	}
}

// push writes entries to the server.
func (f *follower) push(ctx context.Context, op string, entries []override.Entry) error {
	for len(entries) > 0 {
		n := min(len(entries), pushEntries)
		call, cancel := context.WithTimeout(ctx, Timeout)
		_, err := f.write(call, op, f.store.bounds, entries[:n]...)
		cancel()
		if err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// jitter returns a time up to a tenth longer or shorter.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5) //nolint:gosec // not a secret
}

// sleep reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
