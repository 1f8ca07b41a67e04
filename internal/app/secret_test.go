package app_test

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func hasher(t require.TestingT) *clientkey.Hasher {
	h, err := clientkey.NewHasher([]byte("0123456789abcdef0123456789abcdef"))
	require.NoError(t, err)
	return h
}

// bySecret is byHeader, and tenants are by byTenant, both secret.
func bySecret(t require.TestingT) (client, tenant clientkey.Source) {
	client, tenant = byHeader, byTenant
	client.Hasher = hasher(t)
	tenant.Hasher = client.Hasher
	return client, tenant
}

func TestSecret_everyWayToNameAClientIsTheSameBucket(t *testing.T) {
	client, _ := bySecret(t)
	s := newFixture(t, client, policy.FailOpen)
	d := s.must(t, of("alice", "", 1))
	listed := client.Hasher.Hash("alice")
	assert.Equal(t, listed, d.Client)
	assert.Equal(t, []clientkey.BucketKey{clientkey.BucketKey("default:h:x-client-id=" + listed)}, s.store.keys())
	require.True(t, s.must(t, policy.Request{Key: "alice", Cost: 1}).Allowed(), "a caller of the decision API names the value")
	for _, key := range []string{"alice", listed} {
		report, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: key, Source: "header:x-client-id"})
		require.NoError(t, err)
		assert.Equal(t, listed, report.Key)
		assert.Equal(t, domain.Tokens(1), report.Limits[0].Limit.Remaining(report.Limits[0].State), key)
	}
	require.NoError(t, s.Reset(t.Context(), ports.ClientID{Policy: "default", Key: listed}))
	assert.Equal(t, domain.Tokens(2), s.must(t, of("alice", "", 1)).Limits[0].Remaining)
}

// Whoever reads a log knows the HMACs of other clients.
func TestSecret_aRequestThatSendsTheHMACIsAnotherClient(t *testing.T) {
	client, _ := bySecret(t)
	s := newFixture(t, client, policy.FailOpen)
	listed := s.must(t, of("alice", "", 3)).Client
	assert.Equal(t, domain.Tokens(0), s.must(t, of(listed, "", 3)).Limits[0].Remaining)
	d := s.must(t, policy.Request{Key: listed, Cost: 1})
	assert.False(t, d.Allowed(), "of the decision API, whose callers pass on what their clients send: as by header")
	assert.Equal(t, client.Hasher.Hash(listed), d.Client)
	assert.Len(t, s.store.keys(), 2)
}

func TestSecret_patternsAreComparedWithTheValue(t *testing.T) {
	client, _ := bySecret(t)
	s := fixtureOf(t, policy.Policy{
		Key: clientkey.Key{client}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)},
		Overrides: []policy.Override{{Keys: []string{"partner-*"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 50)}}},
		Block:     []string{"banned"},
	})
	assert.Equal(t, domain.Tokens(49), s.must(t, of("partner-7", "", 1)).Limits[0].Remaining)
	blocked := s.must(t, of("banned", "", 1))
	assert.Equal(t, decision.OutcomeBlocked, blocked.Outcome)
	assert.Equal(t, client.Hasher.Hash("banned"), blocked.Client)
	for key, want := range map[string]domain.Tokens{"partner-7": 50, client.Hasher.Hash("partner-7"): 3} {
		report, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: key})
		require.NoError(t, err)
		assert.Equal(t, want, report.Limits[0].Limit.Capacity(), key)
	}
}

func TestSecret_partOfAKeyAndSharedLimits(t *testing.T) {
	client, tenant := bySecret(t)
	shared, err := policy.NewShared(mustLimit(t, "tenant", "1/h", 4), clientkey.Key{tenant, byAddress})
	require.NoError(t, err)
	p := policy.Policy{
		Key: clientkey.Key{byAddress, client}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)},
	}
	p.Use(shared)
	s := fixtureOf(t, p)
	d := s.must(t, of("alice", "acme", 1))
	h := client.Hasher
	assert.Equal(t, "192.0.2.7&"+h.Hash("alice"), d.Client)
	assert.ElementsMatch(t, []clientkey.BucketKey{
		clientkey.BucketKey("default:ip=192.0.2.7&h:x-client-id=" + h.Hash("alice")),
		clientkey.BucketKey("shared/tenant:h:x-tenant=" + h.Hash("acme") + "&ip=192.0.2.7"),
	}, s.store.keys())
	for _, key := range []string{"192.0.2.7&alice", d.Client} {
		report, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: key})
		require.NoError(t, err)
		assert.Equal(t, domain.Tokens(2), report.Limits[0].Limit.Remaining(report.Limits[0].State), key)
		assert.Equal(t, d.Client, report.Key)
	}
}

// The text of a permit holds no key, and a release finds the limits of the override all the same.
func TestSecret_permits(t *testing.T) {
	client, tenant := bySecret(t)
	shared, err := policy.NewShared(mustLimit(t, "org", "1/h", 10), clientkey.Key{tenant},
		policy.Override{Keys: []string{"big-*"}, Limits: []domain.Limit{mustLimit(t, "org", "1/h", 800)}})
	require.NoError(t, err)
	p := policy.Policy{
		Key: clientkey.Key{client}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 50), mustConcurrent(t, "parallel", 2, time.Minute)},
		Overrides: []policy.Override{
			{Keys: []string{"other"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 9)}},
			{Keys: []string{"partner-*"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 500)}},
		},
	}
	p.Use(shared)
	s := fixtureOf(t, p)
	req := of("partner-1", "big-2", 100)
	req.HoldsPermit = true
	d := s.must(t, req)
	require.True(t, d.Allowed())
	text, err := base64.RawURLEncoding.DecodeString(d.Permit[strings.LastIndexByte(d.Permit, '.')+1:])
	require.NoError(t, err)
	assert.NotContains(t, string(text), "partner-1")
	assert.NotContains(t, string(text), "big-2")
	assert.Contains(t, string(text), client.Hasher.Hash("partner-1"))

	released, err := s.Release(t.Context(), d.Permit, 40)
	require.NoError(t, err)
	require.True(t, released)
	req.Cost = 0
	left := s.must(t, req)
	assert.Equal(t, domain.Tokens(460), left.Limits[0].Remaining, "60 came back to the override's bucket, which is not cut")
	assert.Equal(t, domain.Tokens(760), left.Limits[2].Remaining)
}

func TestMissingKey_refuse(t *testing.T) {
	refusing := func(change func(*policy.Policy)) *fixture {
		p := threeKeys(t)
		p.MissingKey = policy.MissingKeyRefuse
		change(&p)
		return fixtureOf(t, p)
	}
	unknown := of("", "t", 1)
	unknown.Client = netip.Addr{}
	peek := of("", "t", 0)
	peek.Op = domain.OpPeek
	for name, req := range map[string]policy.Request{"take": of("", "t", 1), "peek": peek, "no address either": unknown} {
		s := refusing(func(*policy.Policy) {})
		_, err := s.Decide(t.Context(), req)
		require.ErrorIs(t, err, domain.ErrMissingKey, name)
		require.EqualError(t, err, "header:x-client-id: must be sent: requests are counted by it", name)
		assert.Zero(t, s.store.asked(), name)
		assert.Empty(t, s.observer.decisions, name)
	}
	s := refusing(func(*policy.Policy) {})
	assert.True(t, s.must(t, of("a", "t", 1)).Allowed())
	d := s.must(t, of("a", "", 1))
	assert.True(t, d.Allowed(), "the key of a limit is counted by the address, as without the field")
	assert.True(t, d.UsedFallbackKey)

	s = refusing(func(p *policy.Policy) { p.Key = clientkey.Key{byAddress, byHeader} })
	_, err := s.Decide(t.Context(), of("", "t", 1))
	require.EqualError(t, err, "ip, header:x-client-id: must be sent: requests are counted by it")

	s = refusing(func(p *policy.Policy) {
		p.LimitKeys["burst"], p.LimitKeys["daily"] = p.LimitKeys["all"], p.LimitKeys["all"]
	})
	_, err = s.Decide(t.Context(), of("", "t", 1))
	require.ErrorIs(t, err, domain.ErrMissingKey, "also if no limit counts by it")

	s = refusing(func(p *policy.Policy) { p.Exempt = []string{"*"} })
	assert.Equal(t, decision.OutcomeExempt, s.must(t, of("", "t", 1)).Outcome)
	s = refusing(func(p *policy.Policy) { p.Block = []string{"*"} })
	assert.Equal(t, decision.OutcomeBlocked, s.must(t, of("", "t", 1)).Outcome)

	s = refusing(func(p *policy.Policy) { p.Mode = policy.ModeShadow })
	d = s.must(t, of("", "t", 1))
	assert.True(t, d.Allowed())
	assert.Equal(t, "192.0.2.7", d.Client)
	assert.True(t, d.UsedFallbackKey, "which the log says")
}

// What is wrong with a value is said, and is not taken for a missing one.
func TestMissingKey_errorsOfTheLookupStay(t *testing.T) {
	p := threeKeys(t)
	p.MissingKey = policy.MissingKeyRefuse
	s := fixtureOf(t, p)
	twice := errors.New("sent twice")
	req := of("", "t", 1)
	req.Lookup = func(clientkey.Source) (string, error) { return "", twice }
	_, err := s.Decide(t.Context(), req)
	require.ErrorIs(t, err, twice)
	req.Lookup = func(clientkey.Source) (string, error) { return "", domain.ErrNoValue }
	_, err = s.Decide(t.Context(), req)
	require.EqualError(t, err, "key: must not be empty")
}

// A condition knows the value that a caller gives as the key, as it knows a header.
func TestSecret_conditionsAreComparedWithTheValue(t *testing.T) {
	client, _ := bySecret(t)
	s := fixtureOf(t, policy.Policy{
		Key: clientkey.Key{client}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 10)},
		Overrides: []policy.Override{{When: []policy.Condition{{Source: byHeader, Values: []string{"k1"}}}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 100)}}},
	})
	req := of("k1", "", 1)
	req.Trusted = true
	assert.Equal(t, domain.Tokens(100), s.must(t, req).Limits[0].Capacity)
	assert.Equal(t, domain.Tokens(100), s.must(t, policy.Request{Key: "k1", Cost: 1, Trusted: true}).Limits[0].Capacity)
}

// An operator who shortens an HMAC does not mean a client that sends this text.
func TestSecret_operatorsGiveAWholeHMAC(t *testing.T) {
	client, _ := bySecret(t)
	s := newFixture(t, client, policy.FailOpen)
	s.overriding()
	listed := client.Hasher.Hash("alice")
	for _, key := range []string{listed[:20], listed + "0", "hmac:" + strings.ToUpper(listed[5:])} {
		_, err := s.Inspect(t.Context(), id("default", key))
		require.ErrorIs(t, err, domain.ErrInvalidRequest, key)
		require.ErrorContains(t, err, "must be hmac: and 64 hexadecimal digits in lower case", key)
		_, _, err = s.SetOverride(t.Context(), id("default", key), ports.Override{Block: true})
		require.ErrorContains(t, err, "must be hmac: and 64 hexadecimal digits in lower case", key)
	}
	s.set(t, id("default", listed), ports.Override{Block: true})
	assert.Equal(t, decision.OutcomeBlocked, s.must(t, of("alice", "", 1)).Outcome)
}

// An operator who names a client and means another key: the value may be the secret.
func TestSecret_isNotTakenForAValueOfAnotherKey(t *testing.T) {
	client, _ := bySecret(t)
	limits := []domain.Limit{mustLimit(t, "daily", "1/h", 3), mustLimit(t, "other", "1/h", 5)}
	addresses := fixtureOf(t, policy.Policy{Limits: limits, LimitKeys: map[string]clientkey.Key{"other": {client}}})
	tenants := fixtureOf(t, policy.Policy{
		Key: clientkey.Key{client}, Limits: limits, LimitKeys: map[string]clientkey.Key{"daily": {byTenant}, "other": {byTenant}},
	})
	for want, s := range map[string]*fixture{
		"key: must be one address: networks belong in the policy file":               addresses,
		"source: must be said: no limit counts by the policy's key, which is secret": tenants,
	} {
		s.overriding()
		_, err := s.Inspect(t.Context(), id("default", "raw-value"))
		require.EqualError(t, err, want)
		require.EqualError(t, s.Reset(t.Context(), id("default", "raw-value")), want)
		assert.Empty(t, s.ShownKey(id("default", "raw-value")))
	}
	_, _, err := addresses.SetOverride(t.Context(), id("default", "raw-value"), ports.Override{Block: true})
	require.EqualError(t, err, "key: must be one address: networks belong in the policy file")
	after := tenants.set(t, id("default", "raw-value"), ports.Override{Block: true})
	assert.Equal(t, client.Hasher.Hash("raw-value"), after.Key)
	_, err = tenants.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "acme", Source: "header:x-tenant"})
	require.NoError(t, err)
}
