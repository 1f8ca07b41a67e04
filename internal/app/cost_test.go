package app_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	keyOfClient clientkey.BucketKey = "default:h:x-client-id=a"
	keyOfTenant clientkey.BucketKey = "default:h:x-tenant=t"
	keyOfAll    clientkey.BucketKey = "default:g="
)

// ownCosts counts tokens and requests of each key: a request costs each "requests" limit 2, and each quota what it says.
func ownCosts(t require.TestingT) policy.Policy {
	hours, err := calendar.Parse("1h", "", "2023-11-14T22:13:20Z") // fakeNow
	require.NoError(t, err)
	quota, err := domain.NewQuota("tenant-hourly", 50, hours)
	require.NoError(t, err)
	p := policy.Policy{
		Key: clientkey.Key{byHeader},
		Limits: []domain.Limit{
			mustLimit(t, "tokens", "1/h", 40), mustLimit(t, "requests", "1/h", 20), quota,
			mustLimit(t, "tenant-requests", "1/h", 9), mustLimit(t, "all-requests", "1/h", 30),
		},
		LimitKeys: map[string]clientkey.Key{
			"tenant-hourly": {byTenant}, "tenant-requests": {byTenant}, "all-requests": {{Kind: clientkey.SourceGlobal}},
		},
	}
	for _, i := range []int{1, 3, 4} {
		p.Limits[i], err = p.Limits[i].WithCost(2)
		require.NoError(t, err)
	}
	return p
}

func TestMultiKey_undoReturnsEachLimitsOwnCost(t *testing.T) {
	for name, c := range map[string]struct {
		taken, cost domain.Tokens
	}{
		"the client has too few tokens": {30, 11},
		"the tenant has too few tokens": {12, 51},
	} {
		s := fixtureOf(t, ownCosts(t))
		d, err := s.Decide(t.Context(), of("a", "t", c.taken))
		require.NoError(t, err)
		require.Equal(t, decision.OutcomeAllowed, d.Outcome)
		before := s.store.levels()
		require.Equal(t, map[string]int64{
			"default:h:x-client-id=a tokens": 40 - int64(c.taken), "default:h:x-client-id=a requests": 18,
			"default:h:x-tenant=t tenant-hourly": int64(c.taken), "default:h:x-tenant=t tenant-requests": 7, // a quota: the used part
			"default:g= all-requests": 28,
		}, before)
		d, err = s.Decide(t.Context(), of("a", "t", c.cost))
		require.NoError(t, err)
		require.Equal(t, decision.OutcomeDenied, d.Outcome, name)
		assert.Equal(t, before, s.store.levels(), name)
	}
}

func TestMultiKey_chargeThatFailsLeavesOwnCostsAlone(t *testing.T) {
	p := ownCosts(t)
	p.Limits[0] = mustLimit(t, "tokens", "1/24h", 40) // whose debt is bounded by what 100 years refill
	s := fixtureOf(t, p)
	_, err := s.Decide(t.Context(), of("a", "t", 5))
	require.NoError(t, err)
	before := s.store.levels()
	charge := of("a", "t", 100*365+40)
	charge.Op = domain.OpCharge
	_, err = s.Decide(t.Context(), charge)
	require.ErrorIs(t, err, domain.ErrDebtExceeded)
	assert.Equal(t, before, s.store.levels(), "the tenant was charged, and has got it back")
	assert.Contains(t, s.store.ops, domain.OpRefund)
}

// Each shard has its own clock. A decision carries the earliest of their times, so that a refund with it does nothing to a
// quota whose period has begun since.
func TestMultiKey_decisionCarriesTheEarliestTime(t *testing.T) {
	clocks := map[clientkey.BucketKey]domain.Instant{keyOfClient: fakeNow + 7, keyOfTenant: fakeNow + 3, keyOfAll: fakeNow + 5}
	s := fixtureOf(t, ownCosts(t))
	s.store.clock = func(req *ports.TakeRequest) domain.Instant { return clocks[req.Key] }
	d, err := s.Decide(t.Context(), of("a", "t", 1))
	require.NoError(t, err)
	assert.Equal(t, fakeNow+3, d.At)
	for key, at := range map[clientkey.BucketKey]domain.Instant{keyOfClient: fakeNow + 1, keyOfAll: fakeNow + 2} {
		clocks[key] = at
		d, err = s.Decide(t.Context(), of("a", "t", 1))
		require.NoError(t, err)
		assert.Equal(t, min(clocks[keyOfClient], clocks[keyOfAll], clocks[keyOfTenant]), d.At)
	}

	s.store.fail = func(req *ports.TakeRequest) error {
		if req.Key == keyOfClient {
			return ports.ErrUnavailable
		}
		return nil
	}
	d, err = s.Decide(t.Context(), of("a", "t", 1))
	require.NoError(t, err)
	assert.Equal(t, min(clocks[keyOfAll], clocks[keyOfTenant]), d.At, "a store that failed has no time")
}

// A take is undone as of its own shard's time, not of the earliest.
func TestMultiKey_undoIsAsOfEachTakesTime(t *testing.T) {
	clocks := map[clientkey.BucketKey]domain.Instant{keyOfClient: fakeNow + 7, keyOfTenant: fakeNow + 3, keyOfAll: fakeNow + 5}
	s := fixtureOf(t, ownCosts(t))
	undone := map[clientkey.BucketKey]domain.Instant{}
	s.store.clock = func(req *ports.TakeRequest) domain.Instant {
		if req.Op == domain.OpUndo {
			undone[req.Key] = req.TakenAt
		}
		return clocks[req.Key]
	}
	d, err := s.Decide(t.Context(), of("a", "t", 41)) // the client has 40
	require.NoError(t, err)
	require.Equal(t, decision.OutcomeDenied, d.Outcome)
	assert.Equal(t, map[clientkey.BucketKey]domain.Instant{keyOfTenant: fakeNow + 3, keyOfAll: fakeNow + 5}, undone)
}
