package app_test

import (
	"context"
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

// fakeOverrides is a store of overrides in memory, or fails.
type fakeOverrides struct {
	table   *override.Table
	version domain.Instant
	fail    error
	unknown bool
}

var _ ports.OverrideStore = (*fakeOverrides)(nil)

func (f *fakeOverrides) Overrides() *override.Table      { return f.table }
func (f *fakeOverrides) FollowOverrides(context.Context) {}
func (f *fakeOverrides) OverridesStatus() ports.OverridesStatus {
	return ports.OverridesStatus{Count: f.table.Stats().Live, Known: !f.unknown}
}

func (f *fakeOverrides) ChangeOverride(_ context.Context, key clientkey.BucketKey, v *override.Value) (before, after override.Entry, err error) {
	before, _ = f.table.Get(key)
	switch {
	case f.fail != nil:
		return before, after, f.fail
	case v == nil && (before.Key == "" || before.Ended):
		return before, after, ports.ErrNoOverride
	}
	f.version++
	after = override.Entry{Key: key, Version: f.version, Ended: v == nil}
	if v != nil {
		after.Value = *v
	}
	f.table.Merge(after)
	return before, after, nil
}

// overriding adds overrides at run time to a fixture.
func (s *fixture) overriding() *fakeOverrides {
	f := &fakeOverrides{table: override.NewTable(), version: fakeNow}
	s.UseOverrides(f, nil)
	return f
}

func (s *fixture) set(t *testing.T, id ports.ClientID, o ports.Override) ports.Override {
	t.Helper()
	_, after, err := s.SetOverride(t.Context(), id, o)
	require.NoError(t, err)
	return after
}

func id(policyName, key string) ports.ClientID { return ports.ClientID{Policy: policyName, Key: key} }

func specs(list ...limitspec.Spec) ports.Override { return ports.Override{Limits: list} }

func TestOverrides_winOverTheFile(t *testing.T) {
	p := policy.Policy{
		Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3), mustLimit(t, "daily", "1/h", 30)},
		Overrides: []policy.Override{{Keys: []string{"partner-*"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 9)}}},
		Exempt:    []string{"free"}, Block: []string{"bad"},
	}
	s := fixtureOf(t, p)
	s.overriding()
	capacities := func(client string) []domain.Tokens {
		d := s.must(t, of(client, "", 1))
		var all []domain.Tokens
		for i := range d.Limits {
			all = append(all, d.Limits[i].Capacity)
		}
		return all
	}
	require.Equal(t, []domain.Tokens{9, 30}, capacities("partner-1"))
	s.set(t, id("default", "partner-1"), specs(limitspec.Spec{Name: "burst", Capacity: 7}))
	assert.Equal(t, []domain.Tokens{7, 30}, capacities("partner-1"))
	s.set(t, id("default", "partner-1"), specs(limitspec.Spec{Name: "daily", Quota: "50/day"}))
	assert.Equal(t, []domain.Tokens{3, 50}, capacities("partner-1"), "the override of the file does not count any more")
	assert.Equal(t, []domain.Tokens{9, 30}, capacities("partner-2"))

	for _, client := range []string{"free", "bad"} {
		s.set(t, id("default", client), specs(limitspec.Spec{Name: "burst", Capacity: 2}))
		assert.Equal(t, []domain.Tokens{2, 30}, capacities(client))
	}
	s.set(t, id("default", "a"), ports.Override{Exempt: true})
	assert.Equal(t, decision.OutcomeExempt, s.must(t, of("a", "", 1)).Outcome)
	s.set(t, id("default", "a"), ports.Override{Block: true})
	assert.Equal(t, decision.OutcomeBlocked, s.must(t, of("a", "", 1)).Outcome)
	before, err := s.EndOverride(t.Context(), id("default", "a"))
	require.NoError(t, err)
	assert.True(t, before.Block)
	assert.Equal(t, []domain.Tokens{3, 30}, capacities("a"))
	_, err = s.EndOverride(t.Context(), id("default", "a"))
	require.ErrorIs(t, err, ports.ErrNoOverride)
}

// Where nothing counts by the policy's key, its value only matters for overrides.
func TestOverrides_ofAPolicyWhoseLimitsHaveOtherKeys(t *testing.T) {
	p := policy.Policy{
		Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "daily", "1/h", 3)},
		LimitKeys: map[string]clientkey.Key{"daily": {byAddress}},
	}
	s := fixtureOf(t, p)
	s.overriding()
	s.set(t, id("default", "a"), ports.Override{Block: true})
	assert.Equal(t, decision.OutcomeBlocked, s.must(t, of("a", "192.0.2.1", 1)).Outcome)
	assert.Equal(t, decision.OutcomeAllowed, s.must(t, of("b", "192.0.2.1", 1)).Outcome)
}

func TestOverrides_endWhenTheyExpire(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	f := s.overriding()
	s.set(t, id("default", "a"), ports.Override{Block: true, ExpiresAt: time.Now().Add(time.Hour)})
	require.False(t, s.must(t, of("a", "", 1)).Allowed())
	key := clientkey.NewBucketKey("default", byHeader, "a")
	_, _, err := f.ChangeOverride(t.Context(), key, &override.Value{Effect: "block", Client: "a", ExpiresAt: domain.InstantOf(time.Now())})
	require.NoError(t, err)
	assert.True(t, s.must(t, of("a", "", 1)).Allowed())
	_, err = s.Override(t.Context(), id("default", "a"))
	require.ErrorIs(t, err, ports.ErrNoOverride)
}

// A client without a key has overrides of its own: leaving out the key neither gets nor avoids another client's.
func TestOverrides_ofAClientWithoutAKey(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	s.overriding()
	s.set(t, id("default", "192.0.2.7"), ports.Override{Exempt: true})
	assert.Equal(t, decision.OutcomeAllowed, s.must(t, of("", "", 1)).Outcome, "the value is that of a key")
	assert.Equal(t, decision.OutcomeExempt, s.must(t, of("192.0.2.7", "", 1)).Outcome)

	byIP := ports.ClientID{Policy: "default", Key: "192.0.2.7", Source: "ip"}
	s.set(t, byIP, ports.Override{Block: true})
	assert.Equal(t, decision.OutcomeBlocked, s.must(t, of("", "", 1)).Outcome)
	assert.Equal(t, decision.OutcomeExempt, s.must(t, of("192.0.2.7", "", 1)).Outcome)
	got, err := s.Override(t.Context(), byIP)
	require.NoError(t, err)
	assert.Equal(t, "ip", got.Source)
	assert.Equal(t, "192.0.2.7", got.Key)
}

func TestOverrides_ofASharedLimit(t *testing.T) {
	s := sharing(t, policy.Policy{Name: "read"}, policy.Policy{Name: "write"})
	s.overriding()
	s.set(t, id("shared/tenant", "big"), specs(limitspec.Spec{Capacity: 6}))
	for _, name := range []string{"read", "write"} {
		assert.Equal(t, domain.Tokens(6), s.must(t, under(name, domain.OpTake, "a", "big", 1)).Limits[1].Capacity)
		assert.Equal(t, domain.Tokens(4), s.must(t, under(name, domain.OpTake, "a", "t", 1)).Limits[1].Capacity)
	}
	report, err := s.Inspect(t.Context(), id("shared/tenant", "big"))
	require.NoError(t, err)
	require.NotNil(t, report.Override)
	assert.Equal(t, domain.Tokens(6), report.Limits[0].Limit.Capacity())
}

// A policy without a concurrency limit gives out permits to those who have one by an override.
func TestOverrides_addAConcurrencyLimit(t *testing.T) {
	for name, set := range map[string]func(*testing.T) *fixture{
		"of the policy": func(t *testing.T) *fixture {
			s := fixtureOf(t, policy.Policy{Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)}})
			s.overriding()
			s.set(t, id("default", "a"), specs(limitspec.Spec{Name: "burst", Concurrent: 1}))
			return s
		},
		"of a shared limit": func(t *testing.T) *fixture {
			s := sharing(t, policy.Policy{Name: "default"})
			s.overriding()
			s.set(t, id("shared/tenant", "t"), specs(limitspec.Spec{Name: "tenant", Concurrent: 1}))
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := set(t)
			req := of("a", "t", 1)
			req.Policy = "default"
			_, err := s.Decide(t.Context(), req)
			require.ErrorIs(t, err, ports.ErrCannotHold)
			req.HoldsPermit = true
			first := s.must(t, req)
			require.True(t, first.Allowed())
			require.NotEmpty(t, first.Permit)
			assert.False(t, s.must(t, req).Allowed())
			lease, err := s.Renew(t.Context(), first.Permit)
			require.NoError(t, err)
			assert.Equal(t, limitspec.DefaultLease, lease)
			released, err := s.Release(t.Context(), first.Permit, ports.Unsettled)
			require.NoError(t, err)
			assert.True(t, released)
			assert.True(t, s.must(t, req).Allowed())
			other := of("b", "u", 1)
			other.Policy = "default"
			assert.Empty(t, s.must(t, other).Permit)
		})
	}
}

func TestSetOverride_refuses(t *testing.T) {
	p := threeKeys(t)
	p.Cost = policy.Cost{Fixed: 2}
	s := fixtureOf(t, p)
	s.overriding()
	burst := limitspec.Spec{Name: "burst", Capacity: 7}
	for name, c := range map[string]struct {
		id   ports.ClientID
		o    ports.Override
		want string
	}{
		"nothing":                   {id("default", "a"), ports.Override{}, "limits: there must be limits, or exempt, or block"},
		"both":                      {id("default", "a"), ports.Override{Exempt: true, Block: true}, "block: a client is either exempt or blocked"},
		"exempt with limits":        {id("default", "a"), ports.Override{Exempt: true, Limits: []limitspec.Spec{burst}}, "limits: a client that is exempt or blocked has no limits"},
		"no such limit":             {id("default", "a"), specs(burst, limitspec.Spec{Name: "x", Capacity: 7}), `limits[1].name: "x": is not a limit of this policy`},
		"a limit with its own key":  {id("default", "a"), specs(limitspec.Spec{Name: "tenant", Capacity: 7}), `limits[0].name: "tenant": counts by a key of its own`},
		"a limit twice":             {id("default", "a"), specs(burst, burst), `limits[1].name: "burst": there are two limits of this name`},
		"nothing about a limit":     {id("default", "a"), specs(limitspec.Spec{Name: "burst"}), "limits[0].name: nothing is said about this limit"},
		"a wrong rate":              {id("default", "a"), specs(limitspec.Spec{Name: "burst", Rate: "5"}), `limits[0].rate: "5": `},
		"a cost above the capacity": {id("default", "a"), specs(limitspec.Spec{Name: "burst", Capacity: 7, Cost: 8}), "limits[0].cost: 8: must be from 1 to 7"},
		"less than a request":       {id("default", "a"), specs(limitspec.Spec{Name: "burst", Capacity: 1}), "limits[0].capacity: 1: must be at least 2"},
		"expired":                   {id("default", "a"), ports.Override{Block: true, ExpiresAt: time.Now().Add(-time.Second)}, "expires_at: "},
		"a long note":               {id("default", "a"), ports.Override{Block: true, Note: strings.Repeat("x", 257)}, "note: must be UTF-8 text of at most 256 bytes"},
		"a note of other bytes":     {id("default", "a"), ports.Override{Block: true, Note: "\xff"}, "note: must be UTF-8"},
		"no key":                    {id("default", ""), ports.Override{Block: true}, "key: must not be empty"},
		"a long key":                {id("default", strings.Repeat("x", 1025)), ports.Override{Block: true}, "key: 1025 bytes: must have at most 1024"},
		"a key of other bytes":      {id("default", "\xff"), ports.Override{Block: true}, `key: "\xff": must be UTF-8`},
		"another key":               {ports.ClientID{Policy: "default", Key: "a", Source: "header:x-tenant"}, ports.Override{Block: true}, `source: "header:x-tenant": must be the policy's key`},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := s.SetOverride(t.Context(), c.id, c.o)
			require.ErrorIs(t, err, domain.ErrInvalidRequest)
			assert.Contains(t, err.Error(), c.want)
		})
	}
	_, _, err := s.SetOverride(t.Context(), id("nope", "a"), ports.Override{Block: true})
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
	page, _, err := s.ListOverrides(t.Context(), "default", "", 10)
	require.NoError(t, err)
	assert.Empty(t, page)

	shared := sharing(t, policy.Policy{Name: "read"})
	shared.overriding()
	_, _, err = shared.SetOverride(t.Context(), id("shared/tenant", "t"), ports.Override{Block: true})
	assert.ErrorContains(t, err, `policy: "shared/tenant": an override of a shared limit changes the limit`)
	_, _, err = shared.SetOverride(t.Context(), id("read", "a"), specs(limitspec.Spec{Name: "tenant", Capacity: 9}))
	assert.ErrorContains(t, err, "name shared/tenant as the policy")
}

// changingPolicies has one policy, which is replaced.
type changingPolicies struct{ ports.PolicySource }

func TestOverrides_followTheFile(t *testing.T) {
	source := &changingPolicies{}
	load := func(limits ...domain.Limit) {
		single, err := app.NewSinglePolicy(withDefaults(policy.Policy{Key: clientkey.Key{byHeader}, Limits: limits}))
		require.NoError(t, err)
		source.PolicySource = single
	}
	load(mustLimit(t, "burst", "5/s", 10), mustLimit(t, "slow", "1/h", 9))
	s := &fixture{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
	s.RateLimiter = app.NewRateLimiter(s.store, s.local, source, s.observer)
	var unfit []string
	f := &fakeOverrides{table: override.NewTable()}
	s.UseOverrides(f, func(policyName, client string, reason error) {
		unfit = append(unfit, policyName+" "+client+" "+reason.Error())
	})
	limits := func() (all []string) {
		report, err := s.Inspect(t.Context(), id("default", "a"))
		require.NoError(t, err)
		for i := range report.Limits {
			all = append(all, report.Limits[i].Limit.String())
		}
		return all
	}
	s.set(t, id("default", "a"), specs(limitspec.Spec{Name: "burst", Capacity: 50}, limitspec.Spec{Name: "slow", Capacity: 90}))
	assert.Equal(t, []string{"burst: 5/s, capacity 50", "slow: 1/h, capacity 90"}, limits())
	load(mustLimit(t, "burst", "7/s", 10))
	for range 3 {
		assert.Equal(t, []string{"burst: 7/s, capacity 50"}, limits())
	}
	assert.Equal(t, []string{`default a limits[1].name: "slow": is not a limit of this policy, which has burst`}, unfit)
	load(mustLimit(t, "other", "7/s", 10))
	assert.Equal(t, []string{"other: 7/s, capacity 10"}, limits())
	got, err := s.Override(t.Context(), id("default", "a"))
	require.NoError(t, err)
	require.Error(t, got.Unfit)
	load(mustLimit(t, "slow", "1/h", 9))
	assert.Equal(t, []string{"slow: 1/h, capacity 90"}, limits(), "nothing was lost")
}

func TestListOverrides_pages(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	f := s.overriding()
	for i := range 25 {
		s.set(t, id("default", strconv.Itoa(100+i)), ports.Override{Block: true, Note: "n"})
	}
	s.set(t, ports.ClientID{Policy: "default", Key: "192.0.2.7", Source: "ip"}, ports.Override{Block: true})
	s.set(t, id("default", "192.0.2.7"), ports.Override{Exempt: true})
	_, err := s.EndOverride(t.Context(), id("default", "107"))
	require.NoError(t, err)
	var keys []string
	pages := 0
	for after := ""; pages == 0 || after != ""; pages++ {
		page, next, err := s.ListOverrides(t.Context(), "default", after, 10)
		require.NoError(t, err)
		for _, o := range page {
			keys = append(keys, o.Key+o.Source)
			assert.False(t, o.SetAt.IsZero())
		}
		after = next
	}
	assert.Equal(t, 3, pages)
	assert.Len(t, keys, 26)
	assert.IsIncreasing(t, keys[:24])
	assert.Equal(t, []string{"192.0.2.7", "192.0.2.7ip"}, keys[24:])
	_, _, err = s.ListOverrides(t.Context(), "default", "", 0)
	require.ErrorIs(t, err, domain.ErrInvalidRequest)
	for _, wrong := range []string{"alice", "YWxpY2U", "=", "alice\n"} {
		_, _, err = s.ListOverrides(t.Context(), "default", wrong, 10)
		require.ErrorIs(t, err, domain.ErrInvalidRequest, wrong)
	}
	f.unknown = true
	_, _, err = s.ListOverrides(t.Context(), "default", "", 10)
	require.ErrorIs(t, err, ports.ErrUnavailable)
	_, err = s.Override(t.Context(), id("default", "z"))
	require.ErrorIs(t, err, ports.ErrUnavailable)
}

// The cursor passes through JSON. Overrides of such keys are refused, but a store may hold some.
func TestListOverrides_pagesOfKeysThatAreNotUTF8(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	f := s.overriding()
	want := []string{"zz", "\xfe", "\xff"}
	for _, key := range want {
		f.table.Merge(override.Entry{
			Key: clientkey.NewBucketKey("default", byHeader, key), Version: 1, Value: override.Value{Effect: "block", Client: key},
		})
	}
	var keys []string
	after := ""
	for range want {
		page, next, err := s.ListOverrides(t.Context(), "default", after, 1)
		require.NoError(t, err)
		require.Len(t, page, 1)
		keys, after = append(keys, page[0].Key), strings.ToValidUTF8(next, "\ufffd")
	}
	assert.Equal(t, want, keys)
	assert.Empty(t, after)
}

func TestOverrides_withoutAStoreOfThem(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	_, _, err := s.SetOverride(t.Context(), id("default", "a"), ports.Override{Block: true})
	require.ErrorIs(t, err, domain.ErrInvalidRequest)
	_, _, err = s.ListOverrides(t.Context(), "default", "", 1)
	require.ErrorIs(t, err, domain.ErrInvalidRequest)
	assert.True(t, s.OverridesStatus().Known)
}

// An override that another release, or another tool, wrote.
func TestOverrides_ofASharedLimitThatExemptsOrBlocks(t *testing.T) {
	for _, effect := range []string{"exempt", "block"} {
		s := sharing(t, policy.Policy{Name: "read"})
		f := s.overriding()
		f.table.Merge(override.Entry{Key: "shared/tenant:h:x-tenant=t", Version: 1, Value: override.Value{Effect: effect, Client: "t"}})
		assert.True(t, s.must(t, under("read", domain.OpTake, "a", "t", 1)).Allowed(), effect)
		page, _, err := s.ListOverrides(t.Context(), "shared/tenant", "", 10)
		require.NoError(t, err)
		require.Len(t, page, 1)
		assert.ErrorContains(t, page[0].Unfit, "an override of a shared limit changes the limit")
	}
}
