package app_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// held is a request of this process that holds its permit until End.
func held(client string, cost domain.Tokens) policy.Request {
	req := of(client, "t", cost)
	req.Hold = true
	return req
}

// free returns how many permits are left for a client.
func (s *fixture) free(t *testing.T, client string) domain.Tokens {
	t.Helper()
	return s.must(t, of(client, "t", 0)).Limits[1].Remaining
}

// set has the store fail as the functions say.
func (f *fakeStore) set(fail, answer func(*ports.TakeRequest) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.answer = fail, answer
}

// inBubble runs a test of a limiter of the policy parallel in a synctest bubble, and closes it.
func inBubble(t *testing.T, test func(t *testing.T, s *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := fixtureOf(t, parallel(t, policy.FailOpen))
		s.ticks()
		test(t, s)
		require.NoError(t, s.Close(t.Context()))
		assert.Zero(t, s.observer.count("held"))
	})
}

func TestKeeper_renewsManyPermitsInOneCall(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		for i := range 100 {
			require.True(t, s.must(t, held(fmt.Sprint(i), 1)).Allowed())
			time.Sleep(time.Millisecond)
		}
		before := s.store.asked()
		time.Sleep(50 * time.Second)
		synctest.Wait()
		assert.LessOrEqual(t, s.store.asked()-before, 4, "two renewals of each, those of 100 ms together")
		assert.Equal(t, domain.Tokens(1), s.free(t, "7"))
		assert.Equal(t, 100, s.observer.count("held"))
	})
}

func TestKeeper_releasesWhenTheStoreAnswersAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		d := s.must(t, held("a", 10))
		s.store.set(unavailable, nil)
		s.End(d.Permit, 4)
		time.Sleep(20 * time.Second)
		s.store.set(nil, nil)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		after := s.must(t, of("a", "t", 0))
		assert.Equal(t, []domain.Tokens{46, 2, 96}, []domain.Tokens{after.Limits[0].Remaining, after.Limits[1].Remaining, after.Limits[2].Remaining})
		assert.Zero(t, s.observer.count("expired"))
	})
}

// No caller sees that a renewal or a release in the background fails, so the observer does: once, however often it is repeated, and
// once more if it is given up.
func TestKeeper_reportsWhatFailsInTheBackground(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		d := s.must(t, held("a", 10))
		s.store.set(unavailable, nil)
		time.Sleep(40 * time.Second)
		synctest.Wait()
		assert.Equal(t, 1, s.observer.withoutMode(), "the renewal")
		s.End(d.Permit, 4)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Equal(t, 2, s.observer.withoutMode(), "and the release")
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, 3, s.observer.withoutMode(), "the lease is over, and nothing was settled")
	})
}

// Of the permits that have yet to be released a bounded number is kept. That the others end with their leases is reported.
func TestKeeper_reportsWhatItCannotKeep(t *testing.T) {
	const most = 10
	inBubble(t, func(t *testing.T, s *fixture) {
		s.LimitEnding(most)
		s.store.set(nil, unavailable) // every take is carried out, and its answer is lost
		for range most {
			s.must(t, held("a", 1))
		}
		synctest.Wait()
		assert.Zero(t, s.observer.withoutMode())
		s.must(t, held("a", 1))
		synctest.Wait()
		assert.Equal(t, 1, s.observer.withoutMode())
		s.store.set(nil, nil)
		time.Sleep(10 * time.Minute)
	})
}

// A release whose answer was lost finds the permit gone. It has not expired.
func TestKeeper_aLostReleaseIsNoExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		d := s.must(t, held("a", 10))
		s.store.set(nil, unavailable)
		s.End(d.Permit, ports.Unsettled)
		time.Sleep(time.Second)
		s.store.set(nil, nil)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, domain.Tokens(2), s.free(t, "a"))
		assert.Zero(t, s.observer.count("expired"))
	})
}

func TestKeeper_givesUpWhenTheLeaseIsOver(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		d := s.must(t, held("a", 10))
		s.store.set(unavailable, nil)
		s.End(d.Permit, 4)
		time.Sleep(2 * time.Minute)
		calls := s.store.asked()
		time.Sleep(time.Hour)
		assert.Equal(t, calls, s.store.asked())
	})
}

// A renewal whose answer is lost may have given the permit a new lease. It is released as long as that may last.
func TestKeeper_releasesWhatALostRenewalRenewed(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		d := s.must(t, held("a", 10))
		s.store.set(nil, unavailable)
		time.Sleep(50 * time.Second)
		s.store.set(unavailable, nil)
		s.End(d.Permit, 4)
		time.Sleep(15 * time.Second)
		s.store.set(nil, nil)
		assert.Equal(t, domain.Tokens(1), s.free(t, "a"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, domain.Tokens(2), s.free(t, "a"))
		assert.Equal(t, domain.Tokens(46), s.must(t, of("a", "t", 0)).Limits[0].Remaining)
	})
}

// The store was away for longer than the lease: the permit has expired, its holder goes on, and is counted once.
func TestKeeper_countsAPermitThatHasExpired(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		d := s.must(t, held("a", 10))
		s.store.set(unavailable, nil)
		time.Sleep(2 * time.Minute)
		assert.Zero(t, s.observer.count("expired"), "no one knows yet")
		s.store.set(nil, nil)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, 1, s.observer.count("expired"))
		assert.Equal(t, 1, s.observer.count("held"), "it goes on")
		assert.Equal(t, domain.Tokens(2), s.free(t, "a"), "and takes no new one")
		calls := s.store.asked()
		time.Sleep(time.Hour)
		assert.Equal(t, calls, s.store.asked(), "it is renewed no more")
		s.End(d.Permit, 4)
		synctest.Wait()
		assert.Equal(t, 1, s.observer.count("expired"))
		assert.Equal(t, domain.Tokens(2), s.free(t, "a"))
	})
}

// Somebody else has ended the permit, and the holder learns of it when it ends it.
func TestKeeper_countsAPermitThatHadEndedBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		d := s.must(t, held("a", 10))
		limits := []domain.Limit{mustLimit(t, "burst", "1/h", 50), mustConcurrent(t, "parallel", 2, time.Minute)}
		r := ports.Take(t.Context(), s.store, ports.TakeRequest{
			Op: domain.OpRelease, Key: "default:h:x-client-id=a", Limits: limits, Permit: d.PermitID,
		})
		require.Equal(t, domain.Allowed, r.Verdict)
		s.End(d.Permit, ports.Unsettled)
		synctest.Wait()
		assert.Equal(t, 1, s.observer.count("expired"))
	})
}

// ofTwo has a concurrency limit by each of two keys, and a bucket beside each.
func ofTwo(t *testing.T) policy.Policy {
	return policy.Policy{
		Key: clientkey.Key{byHeader},
		Limits: []domain.Limit{
			mustConcurrent(t, "own", 1, time.Minute), mustLimit(t, "burst", "1/h", 100),
			mustConcurrent(t, "tenant", 5, time.Minute), mustLimit(t, "tenant-burst", "1/h", 100),
		},
		LimitKeys: map[string]clientkey.Key{"tenant": {byTenant}, "tenant-burst": {byTenant}},
	}
}

// An operator ends the permit under one key. The request keeps that of the other, and the ended one stays ended.
func TestKeeper_renewsWhatIsLeftOfAPermit(t *testing.T) {
	for ended, want := range map[ports.ClientID][]domain.Tokens{
		{Policy: "default", Key: "t", Source: "header:x-tenant"}: {0, 5},
		{Policy: "default", Key: "a"}:                            {1, 4},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := fixtureOf(t, ofTwo(t))
			s.ticks()
			d := s.must(t, held("a", 1))
			n, err := s.EndPermits(t.Context(), ended, "")
			require.NoError(t, err)
			require.Equal(t, 1, n)
			for range 3 {
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				left := s.must(t, of("a", "t", 0)).Limits
				assert.Equal(t, want, []domain.Tokens{left[0].Remaining, left[2].Remaining}, "%s has been ended", ended.Key)
			}
			s.End(d.Permit, ports.Unsettled)
			left := s.must(t, of("a", "t", 0)).Limits
			assert.Equal(t, []domain.Tokens{1, 5}, []domain.Tokens{left[0].Remaining, left[2].Remaining})
			assert.Equal(t, 1, s.observer.count("expired"), "once")
			require.NoError(t, s.Close(t.Context()))
		})
	}
}

// A refund of the whole take ends the permit, too. Ending it afterwards is no expiry.
func TestKeeper_aRefundEndsThePermit(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		req := held("a", 10)
		d := s.must(t, req)
		s.must(t, d.Refund(req))
		assert.Equal(t, domain.Tokens(2), s.free(t, "a"))
		time.Sleep(time.Minute)
		s.End(d.Permit, ports.Unsettled)
		synctest.Wait()
		assert.Zero(t, s.observer.count("expired"))
		assert.Equal(t, domain.Tokens(50), s.must(t, of("a", "t", 0)).Limits[0].Remaining)
	})
}

// The holder releases a permit itself: then it is not renewed.
func TestKeeper_forgetsWhatIsReleased(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fixture) {
		d := s.must(t, held("a", 10))
		released, err := s.Release(t.Context(), d.Permit, 4)
		require.NoError(t, err)
		assert.True(t, released)
		s.End(d.Permit, 4) // which has no effect
		time.Sleep(30 * time.Minute)
		assert.Zero(t, s.observer.count("expired"))
		assert.Equal(t, domain.Tokens(46), s.must(t, of("a", "t", 0)).Limits[0].Remaining)
	})
}

func TestKeeper_closeEndsWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fixtureOf(t, parallel(t, policy.FailOpen))
		s.ticks()
		for range 2 {
			require.True(t, s.must(t, held("a", 1)).Allowed())
		}
		require.NoError(t, s.Close(t.Context()))
		assert.Equal(t, domain.Tokens(2), s.free(t, "a"))
		assert.Zero(t, s.observer.count("held"))

		s = fixtureOf(t, parallel(t, policy.FailOpen))
		s.ticks()
		d := s.must(t, held("a", 1))
		s.store.set(unavailable, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.Close(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "1 permits stay held until their leases end")
		s.End(d.Permit, 1)
		calls := s.store.asked()
		time.Sleep(time.Hour)
		assert.Equal(t, calls, s.store.asked(), "nothing is done after Close")
	})
}

// hanging is a store in which one client's shard carries out one kind of operation, and does not answer it until hang is closed.
type hanging struct {
	*fakeStore
	key  clientkey.BucketKey
	op   domain.Op
	hang chan struct{}
}

func (h *hanging) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	h.fakeStore.TakeMany(ctx, reqs, results)
	for i := range reqs {
		if reqs[i].Key == h.key && reqs[i].Op == h.op {
			<-h.hang
		}
	}
}

// whileHanging runs a test of a limiter of the policy parallel in a synctest bubble, over a store in which the shard of the client
// "slow" does not answer op.
func whileHanging(t *testing.T, op domain.Op, test func(t *testing.T, s *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		policies, err := app.NewSinglePolicy(withDefaults(parallel(t, policy.FailOpen)))
		require.NoError(t, err)
		s := &fixture{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
		s.ticks()
		h := &hanging{s.store, "default:h:x-client-id=slow", op, make(chan struct{})}
		s.RateLimiter = app.NewRateLimiter(h, s.local, policies, s.observer)
		test(t, s)
		close(h.hang)
		synctest.Wait()
		require.NoError(t, s.Close(t.Context()))
		assert.Zero(t, s.observer.count("held"))
		assert.Zero(t, s.observer.count("expired"))
	})
}

// A shard that does not answer delays no other release.
func TestKeeper_releasesAtOnce(t *testing.T) {
	whileHanging(t, domain.OpRelease, func(t *testing.T, s *fixture) {
		slow, fast := s.must(t, held("slow", 1)), s.must(t, held("fast", 1))
		go s.End(slow.Permit, ports.Unsettled) // it waits as long as the shard does
		synctest.Wait()
		s.End(fast.Permit, ports.Unsettled)
		began := time.Now()
		synctest.Wait()
		assert.Equal(t, domain.Tokens(2), s.free(t, "fast"))
		assert.Zero(t, time.Since(began))
	})
}

// A permit that is granted while Close waits for another's release is released, too.
func TestKeeper_addsNothingWhileItCloses(t *testing.T) {
	whileHanging(t, domain.OpRelease, func(t *testing.T, s *fixture) {
		s.must(t, held("slow", 1))
		go func() { assert.NoError(t, s.Close(t.Context())) }()
		synctest.Wait()
		s.must(t, held("fast", 1))
		time.Sleep(time.Millisecond)
		synctest.Wait()
		assert.Equal(t, domain.Tokens(2), s.free(t, "fast"))
	})
}

// A renewal that is not answered delays no release: the holder's next request finds the permit free.
func TestKeeper_releasesDuringARenewal(t *testing.T) {
	whileHanging(t, domain.OpRenew, func(t *testing.T, s *fixture) {
		d := s.must(t, held("slow", 1))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Contains(t, s.store.ops, domain.OpRenew)
		s.End(d.Permit, ports.Unsettled)
		assert.Equal(t, domain.Tokens(2), s.free(t, "slow"))
	})
}
