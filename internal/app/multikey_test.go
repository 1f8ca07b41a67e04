package app_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/app/denialcache"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var byTenant = clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-tenant"}

// threeKeys counts per client (3 tokens), per tenant (4) and for all (5), with nothing refilled.
func threeKeys(t require.TestingT) policy.Policy {
	return policy.Policy{
		Key: clientkey.Key{byHeader},
		Limits: []domain.Limit{
			mustLimit(t, "all", "1/h", 5), mustLimit(t, "burst", "1/h", 3), mustLimit(t, "tenant", "1/h", 4), mustLimit(t, "daily", "1/h", 30),
		},
		LimitKeys: map[string]clientkey.Key{"all": {{Kind: clientkey.SourceGlobal}}, "tenant": {byTenant}},
	}
}

func of(client, tenant string, cost domain.Tokens) policy.Request {
	return policy.Request{Cost: cost, Client: netip.MustParseAddr("192.0.2.7"), Lookup: func(s clientkey.Source) (string, error) {
		return map[clientkey.Source]string{byHeader: client, byTenant: tenant}[s], nil
	}}
}

// levels are the tokens left, by "<key> <limit>".
func (f *fakeStore) levels() map[string]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	left := map[string]int64{}
	for key, limits := range f.buckets {
		for name, b := range limits {
			left[string(key)+" "+name] = int64(b.Amount / b.TokenCredits)
		}
	}
	return left
}

func TestMultiKey_areTakenInOneCallAndDescribedInThePolicysOrder(t *testing.T) {
	s := fixtureOf(t, threeKeys(t))
	d, err := s.Decide(t.Context(), of("a", "t", 2))
	require.NoError(t, err)
	assert.Equal(t, 1, s.store.calls)
	assert.Equal(t, map[string]int64{
		"default:g= all": 3, "default:h:x-client-id=a burst": 1, "default:h:x-client-id=a daily": 28, "default:h:x-tenant=t tenant": 2,
	}, s.store.levels())
	var names []string
	for _, l := range d.Limits {
		names = append(names, l.Name)
	}
	assert.Equal(t, []string{"all", "burst", "tenant", "daily"}, names)
	assert.Equal(t, "burst", d.Constraining().Name)
	assert.Equal(t, decision.StoreRedis, d.Store)
	assert.Equal(t, "a", d.Client)
	assert.True(t, d.LevelKnown)
	assert.Equal(t, fakeNow, d.At)
}

func TestMultiKey_denialRefundsWhatTheOthersSpent(t *testing.T) {
	s := fixtureOf(t, threeKeys(t))
	_, err := s.Decide(t.Context(), of("a", "t", 3))
	require.NoError(t, err)
	before := s.store.levels()

	d, err := s.Decide(t.Context(), of("b", "t", 2)) // the tenant has one left
	require.NoError(t, err)
	assert.Equal(t, decision.OutcomeDenied, d.Outcome)
	assert.Equal(t, 3, s.store.calls, "a take, a take and one refund of all")
	left := s.store.levels()
	assert.Equal(t, int64(3), left["default:h:x-client-id=b burst"])
	delete(left, "default:h:x-client-id=b burst")
	delete(left, "default:h:x-client-id=b daily")
	assert.Equal(t, before, left)
	allowed := map[string]bool{}
	remaining := map[string]domain.Tokens{}
	for _, l := range d.Limits {
		allowed[l.Name], remaining[l.Name] = l.Allowed, l.Remaining
	}
	assert.Equal(t, map[string]bool{"all": true, "burst": true, "tenant": false, "daily": true}, allowed)
	assert.Equal(t, map[string]domain.Tokens{"all": 2, "burst": 3, "tenant": 1, "daily": 30}, remaining, "as after the refund")
	require.Len(t, s.observer.decisions, 2)
}

func TestMultiKey_refundThatFailsIsNotSentAgain(t *testing.T) {
	s := fixtureOf(t, threeKeys(t))
	s.store.fail = func(req *ports.TakeRequest) error {
		if req.Op == domain.OpUndo {
			return ports.ErrUnavailable
		}
		return nil
	}
	d, err := s.Decide(t.Context(), of("a", "t", 4)) // the client has 3
	require.NoError(t, err)
	assert.Equal(t, decision.OutcomeDenied, d.Outcome)
	assert.Equal(t, []domain.Op{0, 0, 0, domain.OpUndo, domain.OpUndo}, s.store.ops)
	assert.Empty(t, s.observer.failures, "the decision is made")
}

func TestMultiKey_oneUnknown(t *testing.T) {
	const client, tenant, all = "default:h:x-client-id=a", "default:h:x-tenant=t", "default:g="
	for name, c := range map[string]struct {
		mode    policy.FailureMode
		failing []clientkey.BucketKey
		cost    domain.Tokens
		outcome decision.Outcome
		refunds int
	}{
		"open, the others allow":          {policy.FailOpen, []clientkey.BucketKey{tenant}, 1, decision.OutcomeAllowed, 0},
		"open, another denies":            {policy.FailOpen, []clientkey.BucketKey{tenant}, 4, decision.OutcomeDenied, 1},
		"open, all fail":                  {policy.FailOpen, []clientkey.BucketKey{tenant, client, all}, 9, decision.OutcomeAllowed, 0},
		"closed, the others allow":        {policy.FailClosed, []clientkey.BucketKey{all}, 1, decision.OutcomeUnavailable, 2},
		"closed, an earlier one denies":   {policy.FailClosed, []clientkey.BucketKey{tenant}, 4, decision.OutcomeDenied, 1},
		"closed, another denies":          {policy.FailClosed, []clientkey.BucketKey{all}, 4, decision.OutcomeDenied, 1},
		"local, our own memory has it":    {policy.FailLocal, []clientkey.BucketKey{all}, 1, decision.OutcomeAllowed, 0},
		"local, our own memory denies":    {policy.FailLocal, []clientkey.BucketKey{client}, 4, decision.OutcomeDenied, 2},
		"local, another denies":           {policy.FailLocal, []clientkey.BucketKey{all}, 4, decision.OutcomeDenied, 1},
		"local, another denies here, too": {policy.FailLocal, []clientkey.BucketKey{all, tenant}, 4, decision.OutcomeDenied, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := threeKeys(t)
			p.OnStoreFailure = c.mode
			p.RefundOn, _ = policy.ParseRefundOn("2xx")
			s := fixtureOf(t, p)
			s.store.fail = func(req *ports.TakeRequest) error {
				if slices.Contains(c.failing, req.Key) {
					return ports.ErrUnavailable
				}
				return nil
			}
			d, err := s.Decide(t.Context(), of("a", "t", c.cost))
			require.NoError(t, err)
			assert.Equal(t, c.outcome, d.Outcome)
			assert.Equal(t, decision.StoreFallback, d.Store)
			assert.True(t, d.RefundOn.Empty(), "what is not known to be taken must not be given back")
			refunded := 0
			for _, op := range s.store.ops {
				if op == domain.OpUndo {
					refunded++
				}
			}
			assert.Equal(t, c.refunds, refunded, "only what is known to be taken is given back")
			assert.Len(t, s.observer.failures, 1, "reported once")
			assert.Equal(t, len(c.failing) < 3 || c.mode == policy.FailLocal, d.LevelKnown)
			if c.outcome != decision.OutcomeAllowed {
				for key, left := range s.local.levels() {
					full := map[string]int64{"all": 5, "burst": 3, "tenant": 4, "daily": 30}
					assert.Contains(t, slices.Collect(maps.Values(full)), left, "%s was given back here, too", key)
				}
			}
		})
	}
}

func TestMultiKey_knownDenialAsksNoStore(t *testing.T) {
	s := fixtureOf(t, threeKeys(t))
	start := time.Now()
	cache, err := denialcache.New(denialcache.Config{MaxEntries: 100, MaxAge: time.Minute}, s.store,
		func() time.Duration { return time.Since(start) })
	require.NoError(t, err)
	defer cache.Close()
	policies, err := app.NewSinglePolicy(withDefaults(threeKeys(t)))
	require.NoError(t, err)
	limiter := app.NewRateLimiter(cache, s.local, policies, s.observer)
	for i, want := range []decision.Outcome{decision.OutcomeAllowed, decision.OutcomeDenied} {
		d, err := limiter.Decide(t.Context(), of("a", "t", domain.Tokens(3-2*i))) // the second has the others give back
		require.NoError(t, err)
		require.Equal(t, want, d.Outcome)
	}
	calls, levels := s.store.calls, s.store.levels()
	for range 100 {
		d, err := limiter.Decide(t.Context(), of("a", "t", 1))
		require.NoError(t, err)
		require.Equal(t, decision.OutcomeDenied, d.Outcome)
		require.Equal(t, decision.StoreShortcut, d.Store)
		require.True(t, d.LevelKnown)
		require.False(t, d.Constraining().Allowed)
		require.False(t, d.Constraining().LevelUnknown)
		unknown := 0
		for _, l := range d.Limits {
			if l.LevelUnknown {
				unknown++
				require.True(t, l.Allowed)
			}
		}
		require.Positive(t, unknown)
	}
	assert.Equal(t, calls, s.store.calls)
	assert.Equal(t, levels, s.store.levels())

	refund := of("a", "t", 1)
	refund.Op = domain.OpRefund
	answers := make([]ports.Answer, 2)
	limiter.DecideMany(t.Context(), []policy.Request{refund, of("a", "t", 1)}, answers)
	assert.True(t, answers[1].Decision.Allowed(), "what comes before it in the same call gives back")
}

func TestDecideAtomic_knownDenialInShadowStopsNoOther(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	cache, err := denialcache.New(denialcache.Config{MaxEntries: 100, MaxAge: time.Minute}, s.store, func() time.Duration { return time.Hour })
	require.NoError(t, err)
	defer cache.Close()
	policies, err := app.NewSinglePolicy(withDefaults(threeKeys(t)))
	require.NoError(t, err)
	limiter := app.NewRateLimiter(cache, s.local, policies, s.observer)
	shadow := &policy.Policy{
		Name: "shadow", Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 1)},
		Mode: policy.ModeShadow, OnStoreFailure: policy.FailOpen,
	}
	require.NoError(t, shadow.Compile())
	reqs := []policy.Request{{CallerPolicy: shadow, Key: "a", Cost: 1}, of("a", "t", 1)}
	answers := make([]ports.Answer, 2)
	for range 3 { // the third denial in shadow is known beforehand
		limiter.DecideAtomic(t.Context(), reqs, answers)
		require.Equal(t, decision.OutcomeAllowed, answers[1].Decision.Outcome)
		require.True(t, answers[1].Decision.LevelKnown)
	}
	assert.Equal(t, decision.StoreShortcut, answers[0].Decision.Store)
	assert.Equal(t, int64(2), s.store.levels()["default:g= all"])
}

func withDefaults(p policy.Policy) policy.Policy {
	p.Name, p.OnStoreFailure = policy.DefaultName, policy.FailOpen
	return p
}

// Whatever is asked, in the end each bucket has lost exactly what was admitted.
func TestMultiKey_losesNoToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := fixtureOf(t, threeKeys(t))
		spent := map[string]int64{}
		for range rapid.IntRange(1, 40).Draw(t, "calls") {
			var reqs []policy.Request
			var who [][2]string
			for range rapid.IntRange(1, 4).Draw(t, "requests") {
				client, tenant := rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "client"), rapid.SampledFrom([]string{"t", "u"}).Draw(t, "tenant")
				reqs = append(reqs, of(client, tenant, domain.Tokens(rapid.IntRange(0, 3).Draw(t, "cost"))))
				who = append(who, [2]string{client, tenant})
			}
			answers := make([]ports.Answer, len(reqs))
			together := rapid.Bool().Draw(t, "together")
			if together {
				s.DecideAtomic(t.Context(), reqs, answers)
			} else {
				s.DecideMany(t.Context(), reqs, answers)
			}
			all := true
			for i := range answers {
				require.NoError(t, answers[i].Err)
				all = all && answers[i].Decision.Allowed()
			}
			for i := range answers {
				if reqs[i].Cost == 0 || !answers[i].Decision.Allowed() || together && !all {
					continue
				}
				client := "h:x-client-id=" + who[i][0]
				if who[i][0] == "" {
					client = "ip=192.0.2.7"
				}
				cost := int64(reqs[i].Cost)
				spent["default:g= all"] += cost
				spent["default:h:x-tenant="+who[i][1]+" tenant"] += cost
				spent["default:"+client+" burst"] += cost
				spent["default:"+client+" daily"] += cost
			}
		}
		capacity := map[string]int64{"all": 5, "rst": 3, "ant": 4, "ily": 30}
		for bucket, left := range s.store.levels() {
			require.Equal(t, capacity[bucket[len(bucket)-3:]]-spent[bucket], left, bucket)
		}
	})
}

func TestDecideAtomic_allOrNone(t *testing.T) {
	burst := []domain.Limit{mustLimit(t, "burst", "1/h", 3)}
	newPolicy := func(name string, change func(*policy.Policy)) *policy.Policy {
		p := &policy.Policy{Name: name, Key: clientkey.Key{byHeader}, Limits: burst, OnStoreFailure: policy.FailOpen}
		if change != nil {
			change(p)
		}
		require.NoError(t, p.Compile())
		return p
	}
	a, b := newPolicy("a", func(p *policy.Policy) { p.RefundOn, _ = policy.ParseRefundOn("2xx") }), newPolicy("b", nil)
	shadow := newPolicy("shadow", func(p *policy.Policy) { p.Mode = policy.ModeShadow })
	block := newPolicy("block", func(p *policy.Policy) { p.Block = []string{"*"} })
	exempt := newPolicy("exempt", func(p *policy.Policy) { p.Exempt = []string{"*"} })
	own := func(p *policy.Policy, cost domain.Tokens) policy.Request {
		return policy.Request{CallerPolicy: p, Key: "k", Cost: cost}
	}
	for name, c := range map[string]struct {
		reqs     []policy.Request
		outcomes []decision.Outcome
		left     map[string]int64
	}{
		"all pass": {
			[]policy.Request{own(a, 1), own(b, 2)}, []decision.Outcome{decision.OutcomeAllowed, decision.OutcomeAllowed}, map[string]int64{"a": 2, "b": 1},
		},
		"one is denied": {
			[]policy.Request{own(a, 1), own(b, 4)}, []decision.Outcome{decision.OutcomeAllowed, decision.OutcomeDenied}, map[string]int64{"a": 3},
		},
		"one is denied in shadow": {
			[]policy.Request{own(a, 1), own(shadow, 4)}, []decision.Outcome{decision.OutcomeAllowed, decision.OutcomeDenied}, map[string]int64{"a": 2},
		},
		"one is blocked": {
			[]policy.Request{own(block, 1), own(a, 1)}, []decision.Outcome{decision.OutcomeBlocked, decision.OutcomeAllowed}, map[string]int64{"a": 3},
		},
		"one is exempt": {
			[]policy.Request{own(exempt, 1), own(a, 1)}, []decision.Outcome{decision.OutcomeExempt, decision.OutcomeAllowed}, map[string]int64{"a": 2},
		},
		"the same bucket twice": {
			[]policy.Request{own(a, 2), own(a, 2)}, []decision.Outcome{decision.OutcomeAllowed, decision.OutcomeDenied}, map[string]int64{"a": 3},
		},
		"a peek": {
			[]policy.Request{own(a, 0), own(b, 4)}, []decision.Outcome{decision.OutcomeAllowed, decision.OutcomeDenied}, map[string]int64{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFixture(t, byHeader, policy.FailOpen)
			answers := make([]ports.Answer, len(c.reqs))
			s.DecideAtomic(t.Context(), c.reqs, answers)
			for i := range answers {
				require.NoError(t, answers[i].Err)
				assert.Equal(t, c.outcomes[i], answers[i].Decision.Outcome, "answer %d", i)
			}
			for i := range answers {
				d := &answers[i].Decision
				taken := c.reqs[i].CallerPolicy == a && c.reqs[i].Cost > 0 && c.left["a"] < 3
				assert.Equal(t, taken, d.RefundOn.Has(200), "answer %d", i)
			}
			left := map[string]int64{}
			for _, p := range []string{"a", "b"} {
				if n, stored := s.store.levels()[p+":h:x-client-id=k burst"]; stored {
					left[p] = n
				}
			}
			assert.Equal(t, c.left, left)
		})
	}
}

func TestDecideAtomic_requestThatCannotBeDecidedLetsNoneSpend(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	answers := make([]ports.Answer, 2)
	s.DecideAtomic(t.Context(), []policy.Request{take("a"), {Cost: -1}}, answers)
	require.ErrorIs(t, answers[1].Err, domain.ErrInvalidRequest)
	require.ErrorIs(t, answers[0].Err, domain.ErrInvalidRequest)
	assert.Empty(t, s.store.ops, "nothing was taken that a refund would have to give back")
	assert.Zero(t, answers[0].Decision, "no half of one")

	shadow := &policy.Policy{
		Name: "shadow", Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 1)}, Mode: policy.ModeShadow, OnStoreFailure: policy.FailOpen,
	}
	require.NoError(t, shadow.Compile())
	s.store.fail = func(req *ports.TakeRequest) error {
		if req.Key == "shadow:ip=b" {
			return ports.ErrInvalidTake
		}
		return nil
	}
	s.DecideAtomic(t.Context(), []policy.Request{take("a"), {CallerPolicy: shadow, Key: "b", Cost: 1}}, answers)
	require.ErrorIs(t, answers[1].Err, ports.ErrInvalidTake)
	assert.Equal(t, int64(3), s.store.levels()["default:h:x-client-id=a burst"])
}

func TestMultiKey_requestWithoutAKeyTakesNothing(t *testing.T) {
	s := fixtureOf(t, threeKeys(t))
	lacking := of("a", "", 1)
	lacking.Lookup = func(source clientkey.Source) (string, error) {
		if source == byTenant {
			return "", domain.ErrNoValue
		}
		return "a", nil
	}
	answers := make([]ports.Answer, 2)
	s.DecideMany(t.Context(), []policy.Request{lacking, of("b", "t", 1)}, answers)
	require.ErrorContains(t, answers[0].Err, "header:x-tenant: must not be empty")
	require.NoError(t, answers[1].Err)
	assert.Equal(t, []domain.Op{0, 0, 0}, s.store.ops, "of the second alone")
	assert.Equal(t, "b", answers[1].Decision.Client)
	assert.False(t, answers[1].Decision.UsedFallbackKey)

	d, err := s.Decide(t.Context(), of("a", "", 1))
	require.NoError(t, err)
	assert.True(t, d.UsedFallbackKey, "the address took the place of the tenant")
	assert.False(t, d.ClientIsAddress, "but not of the policy's key")
}

func TestMultiKey_otherOperationsReachEveryGroup(t *testing.T) {
	s := fixtureOf(t, threeKeys(t))
	do := func(op domain.Op, cost domain.Tokens) error {
		req := of("a", "t", cost)
		req.Op = op
		_, err := s.Decide(t.Context(), req)
		return err
	}
	require.NoError(t, do(domain.OpCharge, 40))
	assert.Equal(t, int64(-36), s.store.levels()["default:h:x-tenant=t tenant"])
	require.NoError(t, do(domain.OpRefund, 38))
	assert.Equal(t, int64(2), s.store.levels()["default:h:x-tenant=t tenant"])
	assert.Equal(t, int64(3), s.store.levels()["default:g= all"])

	before := s.store.levels()
	s.store.fail = func(req *ports.TakeRequest) error {
		if req.Key == "default:h:x-tenant=t" {
			return ports.ErrUnavailable
		}
		return nil
	}
	require.ErrorIs(t, do(domain.OpCharge, 1), ports.ErrUnavailable)
	assert.Equal(t, before["default:g= all"]-1, s.store.levels()["default:g= all"], "it may have been carried out: it is left as it is")
}

func TestMultiKey_cancelledCallerLosesNothing(t *testing.T) {
	s := fixtureOf(t, threeKeys(t))
	ctx, cancel := context.WithCancel(t.Context())
	s.store.fail = func(req *ports.TakeRequest) error {
		if req.Key == "default:g=" {
			cancel()
			return errors.Join(ports.ErrUnavailable, context.Canceled)
		}
		return nil
	}
	_, err := s.Decide(ctx, of("a", "t", 1))
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, int64(3), s.store.levels()["default:h:x-client-id=a burst"])
	assert.Equal(t, int64(4), s.store.levels()["default:h:x-tenant=t tenant"])
}
