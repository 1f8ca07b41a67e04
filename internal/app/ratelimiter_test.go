package app_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func take(key string) policy.Request { return policy.Request{Key: key, Cost: 1} }

func TestAllow_passesTheCapacityThenDenies(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	for i := range 4 {
		ok, err := s.Allow(t.Context(), "alice")
		require.NoError(t, err)
		assert.Equal(t, i < 3, ok, "call %d", i+1)
	}
	ok, err := s.Allow(t.Context(), "bob")
	require.NoError(t, err)
	assert.True(t, ok, "another user has a bucket of their own")
	assert.ElementsMatch(t, []clientkey.BucketKey{"default:h:x-client-id=alice", "default:h:x-client-id=bob"}, s.store.keys())
}

func TestAllow_refusesAnEmptyUser(t *testing.T) {
	s := newFixture(t, byAddress, policy.FailOpen)
	ok, err := s.Allow(t.Context(), "")
	require.ErrorIs(t, err, domain.ErrInvalidRequest)
	assert.False(t, ok)
	assert.Zero(t, s.store.calls)
}

func TestDecide_describesEachLimit(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	d, err := s.Decide(t.Context(), policy.Request{Key: "alice", Cost: 2})
	require.NoError(t, err)
	assert.Equal(t, decision.Decision{
		Outcome: decision.OutcomeAllowed, Policy: "default", Client: "alice", Store: decision.StoreRedis, LevelKnown: true,
		Cost: 2, Taken: true, At: fakeNow, Limits: d.Limits, AppliedPolicy: d.AppliedPolicy,
	}, d)
	require.Len(t, d.Limits, 1)
	assert.Equal(t, domain.Tokens(1), d.Limits[0].Remaining)
	assert.True(t, d.Limits[0].Allowed)

	d, err = s.Decide(t.Context(), policy.Request{Key: "alice", Cost: 2})
	require.NoError(t, err)
	assert.Equal(t, decision.OutcomeDenied, d.Outcome)
	assert.False(t, d.Limits[0].Allowed)
	assert.Equal(t, "1h0m0s", d.Limits[0].RetryAfter.String())
}

func TestDecide_refusesWhatCannotBeDecided(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	broken := errors.New("sent twice")
	for name, c := range map[string]struct {
		req  policy.Request
		want error
	}{
		"negative cost":  {policy.Request{Key: "a", Cost: -1}, domain.ErrInvalidRequest},
		"cost too high":  {policy.Request{Key: "a", Cost: domain.MaxCost + 1}, domain.ErrInvalidRequest},
		"empty refund":   {policy.Request{Key: "a", Op: domain.OpRefund}, domain.ErrInvalidRequest},
		"unknown policy": {policy.Request{Key: "a", Cost: 1, Policy: "other"}, ports.ErrUnknownPolicy},
		"no key":         {policy.Request{Cost: 1}, domain.ErrInvalidRequest},
		"lookup fails": {policy.Request{Cost: 1, Lookup: func(clientkey.Source) (string, error) {
			return "", broken
		}}, broken},
	} {
		_, err := s.Decide(t.Context(), c.req)
		assert.ErrorIs(t, err, c.want, name)
	}
	assert.Zero(t, s.store.calls)
	assert.Empty(t, s.observer.decisions)
}

func TestDecide_findsTheClient(t *testing.T) {
	lookup := func(value string) func(clientkey.Source) (string, error) {
		return func(s clientkey.Source) (string, error) {
			if s != byHeader {
				return "", fmt.Errorf("asked for %v", s)
			}
			return value, nil
		}
	}
	v4, v6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8:1:2:3::4")
	for name, c := range map[string]struct {
		own     clientkey.Source
		req     policy.Request
		key     clientkey.BucketKey
		client  string
		missing bool
	}{
		"header":            {byHeader, policy.Request{Client: v4, Lookup: lookup("acme")}, "default:h:x-client-id=acme", "acme", false},
		"no header":         {byHeader, policy.Request{Client: v4, Lookup: lookup("")}, "default:ip=192.0.2.7", "192.0.2.7", true},
		"address":           {byAddress, policy.Request{Client: v4}, "default:ip=192.0.2.7", "192.0.2.7", false},
		"IPv6 address":      {byAddress, policy.Request{Client: v6}, "default:ip=2001%3Adb8%3A1%3A2%3A%3A/64", "2001:db8:1:2::/64", false},
		"key":               {byHeader, policy.Request{Key: "a=b", Client: v4}, "default:h:x-client-id=a%3Db", "a=b", false},
		"key is an address": {byAddress, policy.Request{Key: "::ffff:192.0.2.7"}, "default:ip=192.0.2.7", "192.0.2.7", false},
		"key is a name":     {byAddress, policy.Request{Key: "alice"}, "default:ip=alice", "alice", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFixture(t, c.own, policy.FailOpen)
			c.req.Cost = 1
			d, err := s.Decide(t.Context(), c.req)
			require.NoError(t, err)
			assert.Equal(t, []clientkey.BucketKey{c.key}, s.store.keys())
			assert.Equal(t, c.client, d.Client)
			assert.Equal(t, c.missing, d.UsedFallbackKey)
			assert.Equal(t, c.missing, d.ClientIsAddress)
		})
	}
}

func TestDecide_keepsNoStringOfTheRequest(t *testing.T) {
	for client, key := range map[string]clientkey.BucketKey{
		"alice": "default:h:x-client-id=alice", "al=ce": "default:h:x-client-id=al%3Dce", // the key holds it escaped
	} {
		s := newFixture(t, byHeader, policy.FailOpen)
		buffer := []byte(client) // as a server's, which the next request overwrites
		d, err := s.Decide(t.Context(), policy.Request{Cost: 1, Lookup: func(clientkey.Source) (string, error) {
			return unsafe.String(&buffer[0], len(buffer)), nil
		}})
		require.NoError(t, err)
		copy(buffer, "mallo")
		assert.Equal(t, client, d.Client)
		assert.Equal(t, []clientkey.BucketKey{key}, s.store.keys())
	}
}

func TestDecide_sharesOneCallAmongMany(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	reqs := []policy.Request{
		take("a"),
		{Key: "a", Cost: -1},
		take("a"), take("b"),
		{Key: "a", Cost: 2},
		{Key: "a", Cost: 1, Op: domain.OpRefund},
		{Key: "a", Cost: 2},
		{Key: "a", Op: domain.OpPeek},
	}
	answers := make([]ports.Answer, len(reqs))
	s.DecideMany(t.Context(), reqs, answers)
	assert.Equal(t, 1, s.store.calls)
	require.ErrorIs(t, answers[1].Err, domain.ErrInvalidRequest)
	want := map[int]bool{0: true, 2: true, 3: true, 4: false, 5: true, 6: true, 7: true}
	for i, allowed := range want {
		require.NoError(t, answers[i].Err, "answer %d", i)
		assert.Equal(t, allowed, answers[i].Decision.Allowed(), "answer %d", i)
	}
	assert.Len(t, s.observer.decisions, 5, "takes are reported, refunds and peeks are not")
}

func TestDecide_answersStayWhenMemoryIsUsedAgain(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	first, err := s.Decide(t.Context(), take("a"))
	require.NoError(t, err)
	_, err = s.Decide(t.Context(), policy.Request{Key: "b", Cost: 3})
	require.NoError(t, err)
	assert.Equal(t, domain.Tokens(2), first.Limits[0].Remaining)
}

func TestDecide_concurrentCallsDoNotMix(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				client := fmt.Sprintf("client-%d", (g+i)%20)
				d, err := s.Decide(t.Context(), take(client))
				if assert.NoError(t, err) && assert.Equal(t, client, d.Client) && d.Allowed() {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 20*3, allowed.Load())
}

func TestNewSinglePolicy_refusesWhatDoesNotValidate(t *testing.T) {
	_, err := app.NewSinglePolicy(policy.Policy{Name: "Bad Name", OnStoreFailure: "shrug"})
	require.ErrorIs(t, err, domain.ErrInvalidPolicy)
	for _, field := range []string{"name", "limits", "on_store_failure"} {
		assert.ErrorContains(t, err, field)
	}
}

func TestDecide_cancelledCallerIsNoFailureOfTheStore(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.store.fail = func(*ports.TakeRequest) error {
		return fmt.Errorf("%w: %w", ports.ErrUnavailable, context.Canceled)
	}
	_, err := s.Decide(ctx, take("a"))
	require.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, s.observer.failures)
}
