package app_test

import (
	"cmp"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// A shared limit that became a concurrency limit at run time grants permits under a policy that has none. Such a permit knows the
// override of its conditions, too: a release does not cut the client's bucket to the limit of the others.
func TestOverrides_aPermitKnowsTheConditions(t *testing.T) {
	shared, err := policy.NewShared(mustLimit(t, "tenant", "1/h", 400), clientkey.Key{byTenant})
	require.NoError(t, err)
	plan := clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-plan"}
	p := policy.Policy{
		Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 10)},
		Overrides: []policy.Override{{When: []policy.Condition{{Source: plan, Values: []string{"pro"}}}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 100)}}},
	}
	p.Use(shared)
	s := fixtureOf(t, p)
	s.overriding()
	s.set(t, id("shared/tenant", "t"), specs(limitspec.Spec{Name: "tenant", Concurrent: 5, Lease: "60s"}))
	req := of("a", "t", 5)
	lookup := req.Lookup
	req.Lookup = func(source clientkey.Source) (string, error) {
		if source == plan {
			return "pro", nil
		}
		return lookup(source)
	}
	req.Trusted, req.HoldsPermit = true, true
	d := s.must(t, req)
	require.Equal(t, domain.Tokens(95), d.Limits[0].Remaining)
	released, err := s.Release(t.Context(), d.Permit, 9)
	require.NoError(t, err)
	require.True(t, released)
	assert.Equal(t, int64(91), s.store.levels()["default:h:x-client-id=a burst"])
}

// What an audit line shows of a client is never the value of a secret key, also where the change failed.
func TestOverrides_errorsComeWithTheListedClient(t *testing.T) {
	client, _ := bySecret(t)
	s := fixtureOf(t, policy.Policy{
		Key: clientkey.Key{client}, Limits: []domain.Limit{mustLimit(t, "org", "1/h", 3)}, LimitKeys: map[string]clientkey.Key{"org": {byTenant}},
	})
	f := s.overriding()
	f.fail = ports.ErrUnavailable
	listed := client.Hasher.Hash("sk_live_raw")
	named := id("default", "sk_live_raw")
	before, after, err := s.SetOverride(t.Context(), named, ports.Override{Block: true})
	require.ErrorIs(t, err, ports.ErrUnavailable)
	assert.Nil(t, before)
	assert.Equal(t, ports.Override{Key: listed}, after)
	ended, err := s.EndOverride(t.Context(), named)
	require.ErrorIs(t, err, ports.ErrUnavailable)
	assert.Equal(t, ports.Override{Key: listed}, ended)

	_, after, err = s.SetOverride(t.Context(), named, ports.Override{})
	require.ErrorIs(t, err, domain.ErrInvalidRequest)
	assert.Equal(t, listed, after.Key, "also if the override is wrong")
	for _, wrong := range []ports.ClientID{
		{Policy: "default", Key: "sk_live_raw", Source: "header:x-tenant"}, id("default", strings.Repeat("sk_live", 200)),
	} {
		_, after, err = s.SetOverride(t.Context(), wrong, ports.Override{Block: true})
		require.ErrorIs(t, err, domain.ErrInvalidRequest)
		assert.Equal(t, client.Hasher.Hash(wrong.Key), after.Key, "also if the client is wrong")
	}
	noAddress := ports.ClientID{Policy: "default", Key: "sk_live_raw", Source: "ip"}
	_, _, err = s.SetOverride(t.Context(), noAddress, ports.Override{Block: true})
	require.EqualError(t, err, "key: must be one address: networks belong in the policy file")
}

func TestShownKey_ofAPolicyOfSharedLimitsOnly(t *testing.T) {
	shared, err := policy.NewShared(mustLimit(t, "tenant", "1/h", 4), clientkey.Key{byTenant})
	require.NoError(t, err)
	client, _ := bySecret(t)
	p := policy.Policy{Key: clientkey.Key{client}}
	p.Use(shared)
	s := fixtureOf(t, p)
	assert.Equal(t, client.Hasher.Hash("alice"), s.ShownKey(id("default", "alice")))
	p.Key = clientkey.Key{{Kind: clientkey.SourceGlobal}}
	assert.Empty(t, fixtureOf(t, p).ShownKey(id("default", "")))
}

// A request that sends its key twice has no client, and does not pass a block by that.
func TestOverrides_needAKeyThatCanBeRead(t *testing.T) {
	s := fixtureOf(t, policy.Policy{
		Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "org", "1/h", 30)}, LimitKeys: map[string]clientkey.Key{"org": {byTenant}},
	})
	s.overriding()
	twice := errors.New("sent twice")
	req := of("", "t", 1)
	lookup := req.Lookup
	req.Lookup = func(source clientkey.Source) (string, error) {
		if source == byHeader {
			return "", twice
		}
		return lookup(source)
	}
	require.True(t, s.must(t, req).Allowed(), "nothing asks for the key")
	s.set(t, id("default", "bad"), ports.Override{Block: true})
	_, err := s.Decide(t.Context(), req)
	require.ErrorIs(t, err, twice)
	without := of("", "t", 1)
	without.Client = netip.Addr{}
	assert.True(t, s.must(t, without).Allowed(), "a request without a key and an address is no client that has an override")
	req.Lookup = func(source clientkey.Source) (string, error) {
		if source == byHeader {
			return "", domain.ErrNoValue
		}
		return lookup(source)
	}
	assert.True(t, s.must(t, req).Allowed(), "nor one whose caller gave no key")
}

// A key of several sources names a long value by its hash. A release finds the override all the same.
func TestOverrides_aPermitOfAClientWithALongValue(t *testing.T) {
	s := fixtureOf(t, policy.Policy{
		Key: clientkey.Key{byHeader, byTenant}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 10), mustConcurrent(t, "parallel", 5, time.Minute)},
	})
	s.overriding()
	long := strings.Repeat("x", 300)
	s.set(t, id("default", long+"&t"), specs(limitspec.Spec{Name: "burst", Capacity: 100}))
	req := of(long, "t", 5)
	req.HoldsPermit = true
	d := s.must(t, req)
	require.Equal(t, domain.Tokens(95), d.Limits[0].Remaining)
	released, err := s.Release(t.Context(), d.Permit, 9)
	require.NoError(t, err)
	require.True(t, released)
	req.Cost = 0
	assert.Equal(t, domain.Tokens(91), s.must(t, req).Limits[0].Remaining)
}

// Overrides that were set when the policy had another key apply to no client. They are shown as such, and can be ended.
func TestOverrides_ofAnotherKeyOfThePolicy(t *testing.T) {
	client, _ := bySecret(t)
	burst := []domain.Limit{mustLimit(t, "burst", "1/h", 10)}
	for name, c := range map[string]struct {
		key         clientkey.Key
		old, client string
	}{
		"another header": {clientkey.Key{byHeader}, "default:h:x-old=a", "a"},
		"a secret now":   {clientkey.Key{client}, "default:h:x-client-id=sk_raw", "sk_raw"},
		"two sources":    {clientkey.Key{byHeader, byTenant}, "default:h:x-client-id=a", "a"},
		"one source":     {clientkey.Key{byHeader}, "default:h:x-client-id=a&h:x-tenant=t", "a&t"},
		"an address":     {clientkey.Key{byAddress}, "default:h:x-client-id=a", "a"},
		"all clients":    {clientkey.Key{{Kind: clientkey.SourceGlobal}}, "default:ip=192.0.2.7", "192.0.2.7"},
		"no more global": {clientkey.Key{byHeader}, "default:g=", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := fixtureOf(t, policy.Policy{Key: c.key, Limits: burst})
			f := s.overriding()
			f.table.Merge(override.Entry{Key: clientkey.BucketKey(c.old), Version: 1, Value: override.Value{Effect: "exempt", Client: c.client}})
			page, _, err := s.ListOverrides(t.Context(), "default", "", 10)
			require.NoError(t, err)
			require.Len(t, page, 1)
			require.ErrorContains(t, page[0].Unfit, "the policy's key has changed")
			listed := page[0].Key
			assert.Equal(t, cmp.Or(c.client, "all"), listed)
			before, err := s.EndOverride(t.Context(), id("default", listed))
			require.NoError(t, err)
			assert.True(t, before.Exempt)
			assert.Equal(t, c.key.Secret(), before.Key != listed, "what an audit line shows of a secret key is not its value")
			page, _, err = s.ListOverrides(t.Context(), "default", "", 10)
			require.NoError(t, err)
			assert.Empty(t, page)
			_, err = s.EndOverride(t.Context(), id("default", listed))
			require.Error(t, err)
		})
	}
}

// The override of all clients has a key in a list, too, by which it can be set again.
func TestListOverrides_ofAPolicyByGlobal(t *testing.T) {
	s := fixtureOf(t, policy.Policy{Key: clientkey.Key{{Kind: clientkey.SourceGlobal}}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)}})
	f := s.overriding()
	set := s.set(t, id("default", "anything"), ports.Override{Block: true})
	page, _, err := s.ListOverrides(t.Context(), "default", "", 10)
	require.NoError(t, err)
	assert.Equal(t, []ports.Override{set}, page)
	assert.Equal(t, "all", set.Key)
	s.set(t, id("default", set.Key), ports.Override{Exempt: true})
	assert.Equal(t, 1, f.table.Stats().Live, "it took the place of the one before")
	_, err = s.EndOverride(t.Context(), id("default", "any word"))
	require.NoError(t, err)
}

// A client that counts by its address is another one than that whose key is the same text.
func TestEndOverride_endsNoOtherClient(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	s.overriding()
	s.set(t, ports.ClientID{Policy: "default", Key: "192.0.2.7", Source: "ip"}, ports.Override{Block: true})
	_, err := s.EndOverride(t.Context(), id("default", "192.0.2.7"))
	require.ErrorIs(t, err, ports.ErrNoOverride)

	s = fixtureOf(t, policy.Policy{Key: clientkey.Key{byHeader, byTenant}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)}})
	s.overriding()
	s.set(t, id("default", strings.Repeat("x", 300)+"&t"), ports.Override{Block: true})
	page, _, err := s.ListOverrides(t.Context(), "default", "", 10)
	require.NoError(t, err)
	assert.NoError(t, page[0].Unfit, "the key has a hash in place of the value")
}

func TestSetOverride_refusesWhatIsNoAddress(t *testing.T) {
	s := newFixture(t, byAddress, policy.FailOpen)
	s.overriding()
	for _, key := range []string{"10.0.0.0/8", "10.0.0.300", "*", "2001:db8::/48"} {
		_, _, err := s.SetOverride(t.Context(), id("default", key), ports.Override{Block: true})
		require.ErrorIs(t, err, domain.ErrInvalidRequest, key)
		require.ErrorContains(t, err, "key: "+strconv.Quote(key)+": must be one address", key)
	}
	for _, key := range []string{"192.0.2.7", "2001:db8::7", "2001:db8::/64", "alice"} {
		s.set(t, id("default", key), ports.Override{Block: true})
	}
	assert.Equal(t, decision.OutcomeBlocked, s.must(t, of("", "", 1)).Outcome)

	s = newFixture(t, byHeader, policy.FailOpen)
	s.overriding()
	_, _, err := s.SetOverride(t.Context(), ports.ClientID{Policy: "default", Key: "alice", Source: "ip"}, ports.Override{Exempt: true})
	require.ErrorContains(t, err, "must be one address")
	s.set(t, id("default", "*"), ports.Override{Block: true})
}

func TestUnfitOverrides_countsThoseThatThePoliciesOfTodayIgnore(t *testing.T) {
	shared, err := policy.NewShared(mustLimit(t, "tenant", "1/h", 10), clientkey.Key{byTenant})
	require.NoError(t, err)
	source := &changingPolicies{}
	load := func(key clientkey.Key, names ...string) {
		all := make([]policy.Policy, len(names))
		for i, name := range names {
			all[i] = withDefaults(policy.Policy{Key: key, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 10)}})
			all[i].Name = name
			all[i].Use(shared)
		}
		set, err := policy.NewSet(all, shared)
		require.NoError(t, err)
		source.PolicySource = namedPolicies{set}
	}
	load(clientkey.Key{byHeader}, "api", "web")
	l := app.NewRateLimiter(&fakeStore{}, &fakeStore{}, source, &fakeObserver{})
	assert.Empty(t, l.UnfitOverrides(), "there is no store of them")
	s := &fixture{RateLimiter: l}
	s.overriding()
	assert.Empty(t, l.UnfitOverrides())
	burst := specs(limitspec.Spec{Name: "burst", Capacity: 50})
	for _, client := range []string{"a", "b", "c"} {
		s.set(t, id("api", client), burst)
	}
	s.set(t, id("web", "a"), ports.Override{Block: true})
	s.set(t, id("shared/tenant", "a"), specs(limitspec.Spec{Name: "tenant", Capacity: 50}))
	assert.Equal(t, map[string]int{"api": 0, "web": 0, "shared/tenant": 0}, l.UnfitOverrides())

	load(clientkey.Key{byHeader}, "api")
	assert.Equal(t, map[string]int{"api": 0, "web": 1, "shared/tenant": 0}, l.UnfitOverrides(), "the policy is gone")
	load(clientkey.Key{byAddress}, "api", "web")
	assert.Equal(t, map[string]int{"api": 3, "web": 1, "shared/tenant": 0}, l.UnfitOverrides(), "no client has this key any more")
	_, err = s.EndOverride(t.Context(), id("api", "a"))
	require.NoError(t, err)
	assert.Equal(t, 3, l.UnfitOverrides()["api"], "it is not counted again so soon")
	load(clientkey.Key{byHeader}, "api", "web")
	assert.Equal(t, map[string]int{"api": 0, "web": 0, "shared/tenant": 0}, l.UnfitOverrides())
}

// Overrides of a policy that is gone are listed, shown and can be ended: they take space, and apply again if the policy comes back.
func TestOverrides_ofAPolicyThatIsGone(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	f := s.overriding()
	f.table.Merge(
		override.Entry{Key: "gone:h:x-client-id=a", Version: 1, Value: override.Value{Effect: "exempt", Client: "a"}},
		override.Entry{Key: "gone:h:x-client-id=b", Version: 1, Value: override.Value{Effect: `[{"name":"burst","capacity":5}]`, Client: "b"}},
	)
	s.set(t, id("default", "c"), ports.Override{Block: true})
	assert.Equal(t, []string{"default", "gone"}, s.Overridden())
	page, _, err := s.ListOverrides(t.Context(), "gone", "", 10)
	require.NoError(t, err)
	require.Len(t, page, 2)
	assert.Equal(t, "a", page[0].Key)
	assert.True(t, page[0].Exempt)
	assert.EqualValues(t, 5, page[1].Limits[0].Capacity)
	for i := range page {
		require.ErrorContains(t, page[i].Unfit, "there is no policy of this name any more")
		found, err := s.Override(t.Context(), id("gone", page[i].Key))
		require.NoError(t, err)
		assert.Equal(t, page[i], found)
		before, err := s.EndOverride(t.Context(), id("gone", page[i].Key))
		require.NoError(t, err)
		assert.Equal(t, page[i], before)
	}
	_, err = s.Override(t.Context(), id("gone", "a"))
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
	_, err = s.EndOverride(t.Context(), id("gone", "a"))
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
	_, _, err = s.ListOverrides(t.Context(), "gone", "", 10)
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
	_, _, err = s.SetOverride(t.Context(), id("gone", "a"), ports.Override{Block: true})
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
}
