package app_test

import (
	"net/netip"
	"strconv"
	"testing"

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

func TestInspect_readsWhatTheStoreHolds(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	_, err := s.Decide(t.Context(), policy.Request{Key: "alice", Cost: 2})
	require.NoError(t, err)
	report, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "alice"})
	require.NoError(t, err)
	assert.Equal(t, "header:x-client-id", report.Source)
	assert.Equal(t, decision.StoreRedis, report.Store)
	require.Len(t, report.Limits, 1)
	level := report.Limits[0]
	assert.Equal(t, domain.Tokens(1), level.Limit.Remaining(level.State))
}

// An operator that inspects a client of the plan pro must not believe that it has the limits of the plan free.
func TestInspect_saysByWhatRequestsGetOtherLimits(t *testing.T) {
	plan, tenant := clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-plan"}, clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-tenant"}
	more := []domain.Limit{mustLimit(t, "burst", "50/s", 100)}
	policies, err := app.NewSinglePolicy(withDefaults(policy.Policy{
		Key:       clientkey.Key{byHeader},
		Limits:    []domain.Limit{mustLimit(t, "burst", "5/s", 10), mustLimit(t, "tenant", "5/s", 10)},
		LimitKeys: map[string]clientkey.Key{"tenant": {tenant}},
		Overrides: []policy.Override{
			{When: []policy.Condition{{Source: plan, Values: []string{"pro"}}}, Limits: more},
			{When: []policy.Condition{{Source: plan, Values: []string{"team"}}}, Limits: more},
		},
	}))
	require.NoError(t, err)
	s := &fixture{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
	s.RateLimiter = app.NewRateLimiter(s.store, s.local, policies, s.observer)
	s.UseOverrides(&fakeOverrides{table: override.NewTable()}, func(_, _ string, err error) { t.Error(err) })
	conditions := func(source string) []string {
		report, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "192.0.2.7", Source: source})
		require.NoError(t, err)
		return report.Conditions
	}
	assert.Equal(t, []string{"header:x-plan"}, conditions(""))
	assert.Equal(t, []string{"header:x-plan"}, conditions("ip"))
	assert.Empty(t, conditions("header:x-tenant"), "no override changes a limit with a key of its own")
	s.set(t, ports.ClientID{Policy: "default", Key: "192.0.2.7"}, specs(limitspec.Spec{Name: "burst", Capacity: 50}))
	assert.Empty(t, conditions(""), "an override at run time is above them")
}

func TestReset_fillsTheBucketInBothStores(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailLocal)
	for _, fail := range []func(*ports.TakeRequest) error{nil, failing(ports.ErrUnavailable)} {
		s.store.fail = fail
		d, err := s.Decide(t.Context(), policy.Request{Key: "alice", Cost: 3})
		require.NoError(t, err)
		require.True(t, d.Allowed())
	}
	s.store.fail = nil
	require.NoError(t, s.Reset(t.Context(), ports.ClientID{Policy: "default", Key: "alice"}))
	for _, fail := range []func(*ports.TakeRequest) error{nil, failing(ports.ErrUnavailable)} {
		s.store.fail = fail
		d, err := s.Decide(t.Context(), policy.Request{Key: "alice", Cost: 3})
		require.NoError(t, err)
		assert.True(t, d.Allowed())
	}
}

func TestInspect_findsTheClientThatHadNoKey(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	id := ports.ClientID{Policy: "default", Key: "2001:db8::5", Source: "ip"}
	require.NoError(t, s.Reset(t.Context(), id))
	assert.Contains(t, s.store.keys(), clientkey.BucketKey("default:ip=2001%3Adb8%3A%3A/64"))
	report, err := s.Inspect(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, "ip", report.Source)
}

func TestInspect_refusesWhatItCannotName(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	for name, c := range map[string]struct {
		id   ports.ClientID
		want error
	}{
		"unknown policy": {ports.ClientID{Policy: "other", Key: "a"}, ports.ErrUnknownPolicy},
		"empty key":      {ports.ClientID{Policy: "default"}, domain.ErrInvalidRequest},
		"brackets":       {ports.ClientID{Policy: "default", Key: "[2001:db8::9]", Source: "ip"}, domain.ErrInvalidRequest},
		"foreign source": {ports.ClientID{Policy: "default", Key: "a", Source: "header:x-other"}, domain.ErrInvalidRequest},
	} {
		_, err := s.Inspect(t.Context(), c.id)
		require.ErrorIs(t, err, c.want, name)
		require.ErrorIs(t, s.Reset(t.Context(), c.id), c.want, name)
	}
	_, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "[2001:db8::9]", Source: "ip"})
	require.EqualError(t, err, `key: "[2001:db8::9]": must be the address without brackets`)
	_, err = s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "[2001:db8::9]"})
	require.NoError(t, err, "the value of a header may be anything")
	s.store.fail = failing(ports.ErrUnavailable)
	_, err = s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "a"})
	require.ErrorIs(t, err, ports.ErrUnavailable)
}

// An address that an operator names must be one, but where callers of the decision API may have given another text.
func TestInspect_addresses(t *testing.T) {
	limits := []domain.Limit{mustLimit(t, "daily", "1/h", 3), mustLimit(t, "site", "1/h", 5)}
	site := clientkey.Source{Kind: clientkey.SourceIP48}
	s := fixtureOf(t, policy.Policy{Key: clientkey.Key{byHeader}, Limits: limits, LimitKeys: map[string]clientkey.Key{"site": {site}}})
	inspect := func(key, source string) error {
		_, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: key, Source: source})
		return err
	}
	for _, key := range []string{"192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::/48"} {
		require.NoError(t, inspect(key, "ip/48"), key)
	}
	for _, key := range []string{"2001:db8::/64", "192.0.2.1/32", "10.0.0.0/8", "secret"} {
		require.ErrorContains(t, inspect(key, "ip/48"), "key: "+strconv.Quote(key)+": must be one address")
	}
	require.NoError(t, inspect("2001:db8::/64", "ip"))
	require.ErrorContains(t, inspect("2001:db8::/48", "ip"), "must be one address")

	s = fixtureOf(t, policy.Policy{Limits: limits, LimitKeys: map[string]clientkey.Key{"site": {byAddress, byTenant}}})
	require.NoError(t, inspect("job-1", ""))
	require.NoError(t, inspect("job-1&gold", "ip,header:x-tenant"))
}

// Where a policy has a limit by the address beside those by a key, a client without the key counts by its address in all.
func TestInspect_findsAllLimitsOfTheClientThatHadNoKey(t *testing.T) {
	limits := []domain.Limit{mustLimit(t, "daily", "1/h", 3), mustLimit(t, "address", "1/h", 5)}
	for name, p := range map[string]policy.Policy{
		"the policy's key is lacking": {Key: clientkey.Key{byHeader}, LimitKeys: map[string]clientkey.Key{"address": {byAddress}}},
		"a limit's key is lacking":    {LimitKeys: map[string]clientkey.Key{"daily": {byHeader}}, Exempt: []string{"*-never"}},
	} {
		p.Limits = limits
		s := fixtureOf(t, p)
		d, err := s.Decide(t.Context(), policy.Request{Client: netip.MustParseAddr("192.0.2.7"), Cost: 3})
		require.NoError(t, err, name)
		require.True(t, d.Allowed(), name)
		id := ports.ClientID{Policy: "default", Key: "192.0.2.7", Source: "ip"}
		left := func() map[string]domain.Tokens {
			report, err := s.Inspect(t.Context(), id)
			require.NoError(t, err, name)
			tokens := map[string]domain.Tokens{}
			for _, level := range report.Limits {
				tokens[level.Limit.Name()] = level.Limit.Remaining(level.State)
			}
			return tokens
		}
		assert.Equal(t, map[string]domain.Tokens{"daily": 0, "address": 2}, left(), name)
		require.NoError(t, s.Reset(t.Context(), id), name)
		assert.Equal(t, map[string]domain.Tokens{"daily": 3, "address": 5}, left(), name)
	}
}
