package app_test

import (
	"encoding/base64"
	"strings"
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

func TestPermitText_brokenOnesAreRefusedByName(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	encoded := func(json string) string { return "abc.1.2." + base64.RawURLEncoding.EncodeToString([]byte(json)) }
	good := s.must(t, holding(1)).Permit
	for name, text := range map[string]string{
		"empty": "", "no dot": "abc", "no base64": "abc.!!", "no JSON": encoded("{"), "no groups": encoded(`{"p":"default","c":1}`),
		"no ID": "." + strings.Repeat("A", 8), "an ID with a slash": "a/b" + good[strings.LastIndexByte(good, '.'):], "cut off": good[:len(good)-3],
		"no cost":           encoded(`{"p":"default","g":[{"k":"default:h:x-client-id=a","l":["parallel"]}]}`),
		"a brace":           encoded(`{"p":"default","c":1,"g":[{"k":"default:h:x-client-id={a}","l":["parallel"]}]}`),
		"an unknown place":  encoded(`{"p":"default","c":1,"g":[{"k":"default:h:x-client-id=a","l":["parallel"],"w":3}]}`),
		"a limit twice":     encoded(`{"p":"default","c":1,"g":[{"k":"default:h:x-client-id=a","l":["parallel","parallel"]}]}`),
		"a time before all": encoded(`{"p":"default","c":1,"g":[{"k":"default:h:x-client-id=a","l":["parallel"],"t":-1}]}`),
		"too long":          "abc.1.2." + strings.Repeat("A", 1<<20),
	} {
		_, err := s.Release(t.Context(), text, ports.Unsettled)
		require.ErrorIs(t, err, domain.ErrInvalidRequest, name)
		assert.Equal(t, "permit", domain.FieldErrors(err)[0].Field, name)
		assert.NotEmpty(t, domain.FieldErrors(err)[0].Reason, name)
		_, err = s.Renew(t.Context(), text)
		require.ErrorIs(t, err, domain.ErrInvalidRequest, name)
		s.End(text, 1) // which has no way to complain
	}
	_, err := s.Release(t.Context(), good, -2)
	require.EqualError(t, err, "cost: -2: must be from 0 to 2147483647")
	_, err = s.Release(t.Context(), good, domain.MaxCost+1)
	require.ErrorIs(t, err, domain.ErrInvalidRequest)
	released, err := s.Release(t.Context(), good, domain.MaxCost)
	require.NoError(t, err)
	assert.True(t, released)
}

// A key that belongs to another policy is left out, whoever wrote the text.
func TestPermitText_reachesOnlyThePolicysOwnKeys(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	text := "abc.1.2." + base64.RawURLEncoding.EncodeToString([]byte(`{"p":"default","c":1,"g":[{"k":"other:h:x-client-id=a","l":["parallel","burst"]}]}`))
	released, err := s.Release(t.Context(), text, 5)
	require.NoError(t, err)
	assert.False(t, released)
	assert.Empty(t, s.store.ops)
}

// reloadable is a source whose policies change.
type reloadable struct{ ports.PolicySource }

func source(t *testing.T, p policy.Policy) ports.PolicySource {
	t.Helper()
	single, err := app.NewSinglePolicy(p)
	require.NoError(t, err)
	return single
}

// A permit is released, and its cost settled, by the limits that the policy has today.
func TestPermits_areReleasedByTodaysLimits(t *testing.T) {
	before := parallel(t, policy.FailOpen)
	before.Name = policy.DefaultName
	before.Overrides = []policy.Override{{Keys: []string{"a"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 500)}}}
	policies := &reloadable{source(t, before)}
	s := &fixture{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
	s.RateLimiter = app.NewRateLimiter(s.store, s.local, policies, s.observer)
	d := s.must(t, holding(100))
	require.True(t, d.Allowed())

	released, err := s.Release(t.Context(), d.Permit, 40)
	require.NoError(t, err)
	require.True(t, released)
	assert.Equal(t, domain.Tokens(460), s.must(t, holding(0)).Limits[0].Remaining, "the override's bucket was refunded, not cut to the policy's")

	d = s.must(t, holding(10))
	require.NotEmpty(t, d.Permit)
	after := parallel(t, policy.FailOpen)
	after.Name = policy.DefaultName
	after.Limits[1] = mustConcurrent(t, "other", 2, time.Minute)
	policies.PolicySource = source(t, after)
	released, err = s.Release(t.Context(), d.Permit, 40)
	require.NoError(t, err)
	assert.False(t, released, "the limit is no more")
	_, err = s.Renew(t.Context(), d.Permit)
	require.ErrorIs(t, err, ports.ErrPermitEnded)

	after.Name = "renamed"
	policies.PolicySource = source(t, after)
	released, err = s.Release(t.Context(), d.Permit, 40)
	require.NoError(t, err)
	assert.False(t, released, "the policy is no more")
	_, err = s.Renew(t.Context(), d.Permit)
	require.ErrorIs(t, err, ports.ErrPermitEnded)
}

// So does the end of a request of this process: its buckets keep their tokens. A permit of a limit that is no more ends all the same.
func TestPermits_endByTodaysLimits(t *testing.T) {
	withCapacity := func(capacity domain.Tokens, parallel string) policy.Policy {
		return withDefaults(policy.Policy{
			Key: clientkey.Key{byHeader},
			Limits: []domain.Limit{
				mustLimit(t, "burst", "1000/s", capacity), mustConcurrent(t, parallel, 2, time.Minute), mustLimit(t, "tenant", "1000/s", capacity),
			},
			LimitKeys: map[string]clientkey.Key{"tenant": {byTenant}},
		})
	}
	for _, parallel := range []string{"parallel", "other"} {
		synctest.Test(t, func(t *testing.T) {
			policies := &reloadable{source(t, withCapacity(10, "parallel"))}
			s := &fixture{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
			s.ticks()
			s.RateLimiter = app.NewRateLimiter(s.store, s.local, policies, s.observer)
			d := s.must(t, held("a", 5))
			policies.PolicySource = source(t, withCapacity(10_000, parallel))
			s.must(t, of("a", "t", 0))
			time.Sleep(20 * time.Second)
			s.End(d.Permit, 6)
			after := s.must(t, of("a", "t", 0)).Limits
			assert.Equal(t, []domain.Tokens{9999, 2, 9999}, []domain.Tokens{after[0].Remaining, after[1].Remaining, after[2].Remaining}, parallel)
			assert.Zero(t, s.observer.count("expired"))
			assert.Zero(t, s.store.permits["default:h:x-client-id=a"]["parallel"].Len())
			require.NoError(t, s.Close(t.Context()))
		})
	}
}

// A limit that had a cost of its own took that, and not the request's.
func TestPermits_endByTheCostThatWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		withBurst := func(burst domain.Limit) ports.PolicySource {
			return source(t, withDefaults(policy.Policy{
				Key: clientkey.Key{byHeader}, Limits: []domain.Limit{burst, mustConcurrent(t, "parallel", 2, time.Minute)},
			}))
		}
		burst := mustLimit(t, "burst", "1/h", 60)
		costing, err := burst.WithCost(1)
		require.NoError(t, err)
		policies := &reloadable{withBurst(costing)}
		s := &fixture{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
		s.ticks()
		s.RateLimiter = app.NewRateLimiter(s.store, s.local, policies, s.observer)
		d := s.must(t, held("a", 30))
		policies.PolicySource = withBurst(burst)
		s.End(d.Permit, 10)
		synctest.Wait()
		after := s.must(t, of("a", "t", 0)).Limits
		assert.Equal(t, []domain.Tokens{59, 2}, []domain.Tokens{after[0].Remaining, after[1].Remaining})
		require.NoError(t, s.Close(t.Context()))
	})
}

// A shared limit has overrides by its own key.
func TestPermits_ofASharedLimitWithAnOverride(t *testing.T) {
	tenants, err := policy.NewShared(mustConcurrent(t, "tenants", 1, time.Minute), clientkey.Key{byTenant}, policy.Override{
		Keys: []string{"big"}, Limits: []domain.Limit{mustConcurrent(t, "tenants", 3, time.Hour)},
	})
	require.NoError(t, err)
	p := policy.Policy{Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 50)}}
	p.Use(tenants)
	s := fixtureOf(t, p)
	req := of("a", "big", 1)
	req.HoldsPermit = true
	d := s.must(t, req)
	assert.Equal(t, time.Hour, d.Lease)
	lease, err := s.Renew(t.Context(), d.Permit)
	require.NoError(t, err)
	assert.Equal(t, time.Hour, lease)
	released, err := s.Release(t.Context(), d.Permit, 6)
	require.NoError(t, err)
	assert.True(t, released)
	d = s.must(t, of("a", "big", 0))
	assert.Equal(t, []domain.Tokens{44, 3}, []domain.Tokens{d.Limits[0].Remaining, d.Limits[1].Remaining})
}

func TestPermitText_isBounded(t *testing.T) {
	const most = 128 << 10
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	for length, want := range map[int]string{
		most:     "permit: is not a permit as a decision returned it",
		most + 1: "permit: is longer than any permit: 131073 bytes, at most 131072",
	} {
		text := "abc.1.2." + strings.Repeat("A", length-len("abc.1.2."))
		_, err := s.Renew(t.Context(), text)
		require.EqualError(t, err, want)
		_, err = s.Release(t.Context(), text, ports.Unsettled)
		require.EqualError(t, err, want)
	}
}

// A client may be as long as a request lets it be: the permit does not repeat it.
func TestPermitText_ofALongClientIsShort(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	req := of(strings.Repeat("\x01", 60_000), strings.Repeat("t", 60_000), 10)
	req.HoldsPermit = true
	d := s.must(t, req)
	assert.Less(t, len(d.Permit), 1000)
	lease, err := s.Renew(t.Context(), d.Permit)
	require.NoError(t, err)
	assert.Equal(t, time.Minute, lease)
	released, err := s.Release(t.Context(), d.Permit, 4)
	require.NoError(t, err)
	assert.True(t, released)
	req.Cost = 0
	after := s.must(t, req)
	assert.Equal(t, []domain.Tokens{46, 2, 96}, []domain.Tokens{after.Limits[0].Remaining, after.Limits[1].Remaining, after.Limits[2].Remaining})
}

// The keys of many limits with many long values are too much for one permit. That is said before anything is taken. All that is
// granted can be released.
func TestPermitText_ofTooManyLongKeysIsRefused(t *testing.T) {
	value := strings.Repeat("\"", clientkey.MaxValue)
	for limits, granted := range map[int]bool{13: true, 20: false} {
		p := parallel(t, policy.FailOpen)
		for i := range limits {
			name := "own-" + string(rune('a'+i))
			p.Limits = append(p.Limits, mustLimit(t, name, "1/h", 100))
			var key clientkey.Key
			for _, part := range []string{"x-one-", "x-two-", "x-three-"} {
				key = append(key, clientkey.Source{Kind: clientkey.SourceHeader, Name: part + name})
			}
			p.LimitKeys[name] = key
		}
		s := fixtureOf(t, p)
		req := policy.Request{Cost: 1, HoldsPermit: true, Lookup: func(clientkey.Source) (string, error) { return value, nil }}
		d, err := s.Decide(t.Context(), req)
		if !granted {
			require.ErrorIs(t, err, domain.ErrInvalidRequest)
			require.ErrorContains(t, err, "key: makes, with the keys of the other limits, too long a permit: ")
			assert.Zero(t, s.store.asked())
			continue
		}
		require.NoError(t, err)
		released, err := s.Release(t.Context(), d.Permit, 4)
		require.NoError(t, err)
		assert.True(t, released)
	}
}
