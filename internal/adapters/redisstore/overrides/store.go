// Package overrides keeps the overrides of clients on Redis servers, and follows what other processes change.
//
// Every shard holds all overrides, in one Hash; a Redis Cluster holds that Hash once. A change goes to every shard that answers.
// It has the time of a server as its version, and a server keeps the newest entry of each client, so a change may arrive late, or
// twice, or in another order. Each process asks each shard ten times a second for the changes since the last one that it knows.
// The reply has the sum of the hashes of all entries. If it differs from that of the process's copy for a while, the two are
// compared entry by entry: the process takes what is newer there, and writes back what the shard lacks. So a shard that was
// down, was replaced, lost its data, or has a replica as its new primary ends up right, whatever the cause.
//
// An entry that is not readable, because another release wrote it, is left alone and has no effect.
package overrides

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Timeout is the budget of one call of a server. It is not that of decisions, which wait for none of these calls.
const Timeout = time.Second

const (
	// othersTimeout is how long a change waits for the other servers once one has answered. They get it in any case, later by
	// being compared.
	othersTimeout = 200 * time.Millisecond
	// changeAttempts bounds how often a change gets a higher version, because others changed the same client meanwhile.
	changeAttempts = 5
)

// Store implements ports.OverrideStore. Make it with [New], and close it after use.
type Store struct {
	servers []*follower
	table   *override.Table
	bounds  ports.OverrideBounds
	started time.Time
	seen    atomic.Int64 // when the copy was last known to be complete, since started; 0: never
	storeAt atomic.Int64 // the latest time of a server that was seen, in microseconds
	ctx     context.Context
	cancel  context.CancelFunc
	calls   sync.WaitGroup
}

var _ ports.OverrideStore = (*Store)(nil)

// New returns a store on these servers, at least one. It closes their clients. It does not connect.
func New(servers []Server, bounds ports.OverrideBounds) *Store {
	s := &Store{table: override.NewTable(), bounds: bounds, started: time.Now()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, server := range servers {
		s.servers = append(s.servers, &follower{Server: server, store: s, after: unknown})
	}
	return s
}

// Overrides implements ports.OverrideStore.
func (s *Store) Overrides() *override.Table { return s.table }

// OverridesStatus implements ports.OverrideStore. The copy is known once one server was read, and it is behind for as long as
// no server was read to its last change.
func (s *Store) OverridesStatus() ports.OverridesStatus {
	seen, now := s.seen.Load(), time.Since(s.started)
	return ports.OverridesStatus{
		Count: s.table.InForce(domain.InstantOf(time.Now())), Known: seen > 0, Behind: now - time.Duration(seen),
	}
}

// Close closes the connections. Calls that are under way fail.
func (s *Store) Close() error {
	s.cancel()
	var errs []error
	for _, f := range s.servers {
		errs = append(errs, f.Client.Close())
	}
	s.calls.Wait()
	return errors.Join(errs...)
}

// answer is that of one server.
type answer[T any] struct {
	value T
	err   error
}

// askAll calls every server at once. It returns when all have answered, or some time after the first that did without an error. The
// other calls go on.
func askAll[T any](ctx context.Context, s *Store, ask func(context.Context, *follower) (T, error)) (values []T, err error) {
	answers := make(chan answer[T], len(s.servers))
	for _, f := range s.servers {
		s.calls.Go(func() {
			own, cancel := context.WithTimeout(s.ctx, Timeout)
			defer cancel()
			v, err := ask(own, f)
			answers <- answer[T]{v, err}
		})
	}
	var enough <-chan time.Time
	var errs []error
	for range s.servers {
		select {
		case a := <-answers:
			if a.err != nil {
				errs = append(errs, a.err)
				continue
			}
			values = append(values, a.value)
			if enough == nil {
				enough = time.After(othersTimeout)
			}
		case <-enough:
			return values, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ports.ErrUnavailable, ctx.Err())
		}
	}
	if len(values) == 0 {
		return nil, errors.Join(errs...)
	}
	return values, nil
}

// ChangeOverride implements ports.OverrideStore. The version is decided before it is sent, so a server that was paused and
// executes the change late does not put it above a later one.
func (s *Store) ChangeOverride(
	ctx context.Context, key clientkey.BucketKey, value *override.Value,
) (before, after override.Entry, err error) {
	for range changeAttempts {
		states, err := askAll(ctx, s, func(ctx context.Context, f *follower) (state, error) {
			return f.read(ctx, newest, 0, key)
		})
		if err != nil {
			return before, after, err
		}
		now := domain.Instant(0)
		for i := range states {
			now = max(now, states[i].now)
			s.mergeText(key, states[i].stored)
		}
		before, _ = s.table.Get(key)
		after = override.Entry{Key: key, Version: max(now, before.Version+1), Ended: value == nil}
		if value != nil {
			after.Value = *value
		} else if before.Key == "" || !before.InForce(now) {
			return before, override.Entry{}, ports.ErrNoOverride
		}
		if s.bounds.Exceeded(s.table.Stats(), &before, &after) {
			return before, override.Entry{}, ports.ErrOverridesFull
		}
		done, err := s.add(ctx, &after)
		if done || err != nil {
			return before, after, err
		}
	}
	return before, override.Entry{}, fmt.Errorf("%w: others change the same override all the time", ports.ErrUnavailable)
}

// add sends an entry to every server. done is false if one of them has a newer entry.
func (s *Store) add(ctx context.Context, e *override.Entry) (done bool, err error) {
	replies, err := askAll(ctx, s, func(ctx context.Context, f *follower) (string, error) {
		reply, err := f.write(ctx, opAdd, s.bounds, *e)
		if err != nil {
			return "", err
		}
		return reply[0], nil
	})
	if err != nil {
		return false, err
	}
	full, stored := false, false
	for _, reply := range replies {
		switch reply {
		case storedReply:
			stored = true
		case fullReply:
			full = true
		default:
			s.mergeText(e.Key, reply)
		}
	}
	if current, _ := s.table.Get(e.Key); current.NewerThan(e) {
		return false, nil
	}
	if full && !stored {
		return false, ports.ErrOverridesFull
	}
	s.table.Merge(*e)
	return true, nil
}

func (s *Store) mergeText(key clientkey.BucketKey, text string) {
	if e, err := override.ParseEntry(key, text); err == nil {
		s.table.Merge(e)
	}
}

// FollowOverrides implements ports.OverrideStore.
func (s *Store) FollowOverrides(ctx context.Context) {
	var wg sync.WaitGroup
	for _, f := range s.servers {
		wg.Go(func() { f.follow(ctx) })
	}
	wg.Go(func() { s.sweep(ctx) })
	wg.Wait()
}

// complete records that the copy had every change of a server at some time.
func (s *Store) complete(began time.Time, now domain.Instant) {
	raise(&s.seen, max(int64(began.Sub(s.started)), 1))
	raise(&s.storeAt, int64(now))
}

func raise(v *atomic.Int64, to int64) {
	for old := v.Load(); old < to && !v.CompareAndSwap(old, to); old = v.Load() {
	}
}

// sweepInterval is how often overrides are looked for that have expired.
const sweepInterval = 5 * time.Second

// sweep ends the overrides that have expired, and removes what need not be remembered. Every process does so, and all decide alike.
func (s *Store) sweep(ctx context.Context) {
	for sleep(ctx, jitter(sweepInterval)) {
		now := s.sweepTime(domain.InstantOf(time.Now()))
		if now == 0 {
			continue
		}
		ends, forgotten := s.table.Due(now)
		for _, f := range s.servers {
			// What fails here is done by the next sweep, or by being compared.
			if f.push(ctx, opPut, ends) == nil {
				_ = f.push(ctx, opDrop, forgotten)
			}
		}
		s.table.Merge(ends...)
		s.table.Drop(forgotten...)
	}
}

// sweepTime is the time by which a sweep decides: the latest of a server, but at most this process's own. So a server whose clock
// is ahead ends no override early, not even after its clock is right again. It is 0 if no server was read.
func (s *Store) sweepTime(own domain.Instant) domain.Instant {
	return min(domain.Instant(s.storeAt.Load()), own)
}
