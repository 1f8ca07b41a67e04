package app_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func at(t require.TestingT, pointer string) policy.CostSource {
	p, err := jsonpointer.Parse(pointer)
	require.NoError(t, err)
	return policy.CostSource{Pointer: p}
}

var (
	estHeader = policy.CostSource{Header: "x-est"}
	thousand  = policy.CostSource{Number: 1000}
)

func estimating(t require.TestingT, sources ...policy.CostSource) policy.Policy {
	return policy.Policy{Limits: []domain.Limit{mustLimit(t, "tokens", "1/h", 10_000)}, Cost: policy.Cost{Estimate: sources}}
}

func TestEstimate_theFirstSourceThatIsThereCounts(t *testing.T) {
	longer, shorter := at(t, "/max_completion_tokens"), at(t, "/max_tokens")
	for name, c := range map[string]struct {
		sources   []policy.CostSource
		header    string
		untrusted bool
		body      string
		want      domain.Tokens
		asked     int // how often for the body
	}{
		"a number":                          {[]policy.CostSource{thousand}, "7", false, `{"max_tokens": 5}`, 1000, 0},
		"a header":                          {[]policy.CostSource{estHeader, shorter, thousand}, "7", false, `{"max_tokens": 5}`, 7, 0},
		"a header that is not believed":     {[]policy.CostSource{estHeader, thousand}, "7", true, ``, 1000, 0},
		"no header":                         {[]policy.CostSource{estHeader, thousand}, "", false, ``, 1000, 0},
		"a header of zero":                  {[]policy.CostSource{estHeader, thousand}, "0", false, ``, 1000, 0},
		"a header with a sign":              {[]policy.CostSource{estHeader, thousand}, "+7", false, ``, 1000, 0},
		"a header in words":                 {[]policy.CostSource{estHeader, thousand}, "many", false, ``, 1000, 0},
		"a pointer":                         {[]policy.CostSource{longer, shorter, thousand}, "", false, `{"max_tokens": 50, "max_completion_tokens": 60}`, 60, 1},
		"the next pointer":                  {[]policy.CostSource{longer, shorter, thousand}, "", false, `{"max_tokens": 50}`, 50, 1},
		"pointers to what is no cost":       {[]policy.CostSource{longer, shorter, thousand}, "", false, `{"max_tokens": 1.5, "max_completion_tokens": 0}`, 1000, 1},
		"a body that is no JSON":            {[]policy.CostSource{shorter, thousand}, "", false, `{"max_tokens": 50`, 1000, 1},
		"no body":                           {[]policy.CostSource{shorter, thousand}, "", false, ``, 1000, 1},
		"nothing":                           {[]policy.CostSource{shorter, estHeader}, "", false, `[]`, 1, 1},
		"a header after a pointer":          {[]policy.CostSource{shorter, estHeader}, "7", false, `[]`, 7, 1},
		"a body from a peer, not a trusted": {[]policy.CostSource{shorter, estHeader}, "7", true, `{"max_tokens": 5}`, 5, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := fixtureOf(t, estimating(t, c.sources...))
			req := having("192.0.2.7", map[string]string{"header:x-est": c.header})
			asked := 0
			req.PolicyCost, req.Trusted, req.Cost = true, !c.untrusted, 3
			req.Body = func() ([]byte, error) { asked++; return []byte(c.body), nil }
			d, err := s.Decide(t.Context(), req)
			require.NoError(t, err)
			assert.Equal(t, c.want, d.Cost)
			assert.Equal(t, 10_000-c.want, d.Limits[0].Remaining)
			assert.Equal(t, c.asked, asked)
			assert.Equal(t, c.untrusted && c.asked == 0, d.IgnoredHeader == "x-est", "a header that was looked for is not believed")
			req.Body = nil
			if c.asked > 0 {
				_, err = s.Decide(t.Context(), req)
				require.NoError(t, err, "a request without a body")
			}
		})
	}
}

func TestEstimate_aCallerThatNamesACost(t *testing.T) {
	s := fixtureOf(t, estimating(t, estHeader, thousand))
	missing := func(clientkey.Source) (string, error) { return "", domain.ErrNoValue }
	for _, c := range []struct {
		req  policy.Request
		want domain.Tokens
	}{
		{policy.Request{Cost: 3}, 3},
		{policy.Request{Cost: 3, Estimated: true}, 1000},
		{policy.Request{Cost: 3, Estimated: true, Trusted: true, Lookup: missing}, 1000},
	} {
		c.req.Key = "192.0.2.7"
		assert.Equal(t, c.want, s.must(t, c.req).Cost)
	}
	plain := newFixture(t, byHeader, policy.FailOpen)
	assert.Equal(t, domain.Tokens(2), plain.must(t, policy.Request{Key: "a", Cost: 2, Estimated: true}).Cost, "the policy has no estimate")
}

func TestEstimate_refuses(t *testing.T) {
	gone := errors.New("the client has gone")
	for name, c := range map[string]struct {
		header string
		body   func() ([]byte, error)
		want   error
		field  string
	}{
		"a header beyond every cost":  {"2147483648", nil, domain.ErrInvalidRequest, "x-est: must"},
		"a header beyond 64 bits":     {strings.Repeat("9", 30), nil, domain.ErrInvalidRequest, "x-est: must"},
		"a pointer beyond every cost": {"", func() ([]byte, error) { return []byte(`{"n":2147483648}`), nil }, domain.ErrInvalidRequest, "json:/n"},
		"a body that cannot be read":  {"", func() ([]byte, error) { return nil, gone }, gone, "gone"},
	} {
		s := fixtureOf(t, estimating(t, estHeader, at(t, "/n"), thousand))
		req := having("192.0.2.7", map[string]string{"header:x-est": c.header})
		req.PolicyCost, req.Trusted, req.Body = true, true, c.body
		_, err := s.Decide(t.Context(), req)
		require.ErrorIs(t, err, c.want, name)
		require.ErrorContains(t, err, c.field, name)
		assert.Zero(t, s.store.calls, "nothing is taken")
	}
}

// settled is a policy of tokens and requests, under two keys.
func settled(t require.TestingT) policy.Policy {
	p := ownCosts(t)
	p.Cost = policy.Cost{Estimate: []policy.CostSource{{Number: 10}}, Actual: policy.Actual{Usage: true}}
	return p
}

func TestSettle_changesTheLimitsThatCountTokens(t *testing.T) {
	for actual, left := range map[domain.Tokens]int64{4: 36, 10: 30, 25: 15, 55: -15, 0: 40} {
		s := fixtureOf(t, settled(t))
		req := of("a", "t", 1)
		req.PolicyCost = true
		d := s.must(t, req)
		require.Equal(t, domain.Tokens(10), d.Cost)
		require.True(t, d.Taken)
		want := s.store.levels()
		settling, needed := d.Settle(req, actual)
		require.Equal(t, actual != 10, needed)
		if needed {
			s.must(t, settling)
		}
		want["default:h:x-client-id=a tokens"], want["default:h:x-tenant=t tenant-hourly"] = left, 40-left
		assert.Equal(t, want, s.store.levels(), "%d tokens, and limits with a cost of their own as they were", actual)
		if actual > 0 {
			s.must(t, d.Refund(req))
			assert.Equal(t, int64(40), s.store.levels()["default:h:x-client-id=a tokens"], "a refund returns what is then held")
		}
	}
}

// A request that costs more than its limits can owe drives them as low as they go, with a permit and without one, and is counted.
func TestSettle_beyondTheLargestDebt(t *testing.T) {
	const most = 100 * 365 * 24 // tokens that 1/h refills in 100 years
	s := fixtureOf(t, settled(t))
	req := of("a", "t", 1)
	req.PolicyCost = true
	d := s.must(t, req)
	settling, _ := d.Settle(req, domain.MaxCost)
	s.must(t, settling)
	assert.Equal(t, int64(-most), s.store.levels()["default:h:x-client-id=a tokens"])
	assert.Equal(t, int64(domain.MaxCost), s.store.levels()["default:h:x-tenant=t tenant-hourly"], "a quota can owe more")
	assert.Equal(t, 1, s.observer.count("debt"))

	s = fixtureOf(t, parallel(t, policy.FailOpen))
	released, err := s.Release(t.Context(), s.must(t, holding(10)).Permit, domain.MaxCost)
	require.NoError(t, err)
	assert.True(t, released)
	peek := s.must(t, holding(0))
	assert.Equal(t, []domain.Tokens{-most, 2, -most}, []domain.Tokens{peek.Limits[0].Remaining, peek.Limits[1].Remaining, peek.Limits[2].Remaining})
	assert.Equal(t, 2, s.observer.count("debt"))
}

// What the store of this process took while the shared one failed is settled and given back there, also once the shared one is back.
func TestSettle_whereItWasTaken(t *testing.T) {
	for actual, left := range map[domain.Tokens]int64{25: 15, 4: 36, domain.MaxCost: -100 * 365 * 24} {
		p := settled(t)
		p.OnStoreFailure = policy.FailLocal
		s := fixtureOf(t, p)
		s.store.fail = failing(ports.ErrUnavailable)
		req := of("a", "t", 1)
		req.PolicyCost = true
		d := s.must(t, req)
		require.True(t, d.Taken && d.Local)
		s.store.fail = nil
		settling, needed := d.Settle(req, actual)
		require.True(t, needed)
		assert.Equal(t, decision.StoreFallback, s.must(t, settling).Store)
		assert.Equal(t, left, s.local.levels()["default:h:x-client-id=a tokens"])
		assert.Equal(t, int64(actual), s.local.levels()["default:h:x-tenant=t tenant-hourly"])
		assert.Empty(t, s.store.levels(), "the shared store has taken nothing")
		assert.Equal(t, actual == domain.MaxCost, s.observer.count("debt") == 1)
		s.must(t, d.Refund(req))
		assert.Zero(t, s.local.levels()["default:h:x-tenant=t tenant-hourly"], "a refund, too")
		assert.Empty(t, s.store.levels())
	}
}

func TestSettle_notWhatTheStoreDidNotTake(t *testing.T) {
	tenant := func(req *ports.TakeRequest) bool { return strings.Contains(string(req.Key), "tenant") }
	for mode, fails := range map[policy.FailureMode]func(*ports.TakeRequest) bool{
		policy.FailOpen:  func(*ports.TakeRequest) bool { return true },
		policy.FailLocal: tenant, // which was taken here, and the rest there
	} {
		p := settled(t)
		p.OnStoreFailure = mode
		s := fixtureOf(t, p)
		s.store.fail = func(req *ports.TakeRequest) error {
			if fails(req) {
				return ports.ErrUnavailable
			}
			return nil
		}
		req := of("a", "t", 1)
		req.PolicyCost = true
		d := s.must(t, req)
		require.True(t, d.Allowed())
		assert.False(t, d.Taken || d.Local)
		_, needed := d.Settle(req, 25)
		assert.False(t, needed, mode)
	}
	s := fixtureOf(t, settled(t))
	req := of("a", "t", 41)
	d := s.must(t, req)
	require.Equal(t, decision.OutcomeDenied, d.Outcome)
	assert.False(t, d.Taken, "a denial took nothing")
	peek := of("a", "t", 0)
	assert.False(t, s.must(t, peek).Taken, "a peek took nothing")
}

func TestSettle_thePermitsEndSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := parallel(t, policy.FailOpen)
		p.Cost = policy.Cost{Estimate: []policy.CostSource{{Number: 10}}, Actual: policy.Actual{Usage: true}}
		s := fixtureOf(t, p)
		s.ticks()
		for actual, left := range map[domain.Tokens]domain.Tokens{4: 46, 25: 25} {
			req := holding(1)
			req.Hold, req.PolicyCost = true, true
			d := s.must(t, req)
			_, needed := d.Settle(req, actual)
			require.False(t, needed)
			require.Equal(t, actual, d.Cost)
			s.End(d.Permit, actual)
			synctest.Wait()
			after := s.must(t, holding(0))
			assert.Equal(t, left, after.Limits[0].Remaining)
			assert.Equal(t, left+50, after.Limits[2].Remaining, "under the tenant's key, too")
			d.Permit, d.PermitID = "", ""
			s.must(t, d.Refund(req))
			assert.Equal(t, domain.Tokens(50), s.must(t, holding(0)).Limits[0].Remaining)
		}
		require.NoError(t, s.Close(t.Context()))
	})
}
