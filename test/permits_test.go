package test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/client"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// permitPolicies have buckets that hardly refill during a test. The policy short has a lease that ends during one.
const permitPolicies = `
policies:
  - name: default
    key: header:X-Client-ID
    max_wait: 30m
    limits:
      - { name: parallel, concurrent: 2, lease: 60s }
      - { name: tokens, rate: 1/h, capacity: 100 }
      - { name: requests, rate: 1/h, capacity: 50, cost: 1 }
      - { name: tenant, key: header:X-Tenant, quota: 1000/year }
  - name: short
    key: header:X-Client-ID
    match: { path: "/short" }
    limits: [ { name: parallel, concurrent: 1, lease: 1s } ]
  - name: waits
    key: header:X-Client-ID
    match: { path: "/waits" }
    max_wait: 30m
    limits: [ { name: turns, rate: 6/h, capacity: 1 } ]
`

// holder asks the decision API of a process.
type holder struct {
	*harness.Process
	headers []string
}

func (h holder) post(path, body string) harness.Response {
	h.T.Helper()
	return h.MustDo(http.MethodPost, h.URL+path, body, h.headers...)
}

// check asks for alice of acme, under the policy default unless more says otherwise.
func (h holder) check(more string) map[string]any {
	h.T.Helper()
	a := h.post("/v1/check", `{"key":"alice","attributes":{"header:x-tenant":"acme"}`+more+`}`)
	require.Equal(h.T, http.StatusOK, a.Status, a.Body)
	return a.JSON(h.T)
}

// take is check for one that must be allowed, and returns its permit.
func (h holder) take(more string) string {
	h.T.Helper()
	a := h.check(more)
	require.Equal(h.T, true, a["allowed"], "%v", a)
	require.IsType(h.T, "", a["permit"], "%v", a)
	return a["permit"].(string)
}

// release ends a permit, and returns whether this call did.
func (h holder) release(permit, more string) bool {
	h.T.Helper()
	a := h.post("/v1/release", `{"permit":"`+permit+`"`+more+`}`)
	require.Equal(h.T, http.StatusOK, a.Status, a.Body)
	return a.JSON(h.T)["released"].(bool)
}

// left returns what is left of the limits of the policy default, in their order.
func (h holder) left() string {
	h.T.Helper()
	var left []string
	for _, l := range h.check(`,"cost":0`)["limits"].([]any) {
		left = append(left, fmt.Sprint(l.(map[string]any)["remaining"]))
	}
	return strings.Join(left, " ")
}

func TestPermits_checkRenewAndRelease(t *testing.T) {
	overStores(t, permitPolicies, checkRenewAndRelease)
}

func checkRenewAndRelease(t *testing.T, p *harness.Process) {
	h := holder{p, nil}
	a := h.check(`,"cost":5`)
	assert.Equal(t, true, a["allowed"])
	assert.InDelta(t, 60_000, a["permit_expires_after_ms"], 0)
	assert.NotContains(t, a, "wait_ms")
	first := a["permit"].(string)
	second := h.take(`,"cost":5`)
	assert.NotEqual(t, first, second)
	denied := h.check(`,"cost":5,"max_wait_ms":60000`)
	assert.Equal(t, false, denied["allowed"], "only buckets lend")
	assert.NotContains(t, denied, "permit")
	assert.InDelta(t, 1000, denied["retry_after_ms"], 0)
	assert.InDelta(t, 50_000, denied["reset_after_ms"], 10_000, "until the first permit expires")
	assert.Equal(t, "0 90 48 990", h.left(), "a denial takes nothing")
	assert.NotContains(t, h.check(`,"cost":0`), "permit")

	a = h.post("/v1/renew", `{"permit":"`+first+`"}`).JSON(t)
	assert.InDelta(t, 60_000, a["permit_expires_after_ms"], 0)
	// Only the first of ten releases counts: 12 tokens were used, and not 5.
	for i := range 10 {
		assert.Equal(t, i == 0, h.release(first, `,"cost":12`))
	}
	assert.Equal(t, "1 83 48 983", h.left())
	ended := h.post("/v1/renew", `{"permit":"`+first+`"}`)
	assert.Equal(t, http.StatusNotFound, ended.Status)
	assert.Contains(t, ended.Body, "permit: it has ended")
	assert.True(t, h.release(second, ""), "without a cost")
	assert.Equal(t, "2 83 48 983", h.left())
	for range 3 {
		permit := h.take(`,"cost":8`)
		assert.True(t, h.release(permit, `,"cost":0`), "the request cost nothing")
		assert.False(t, h.release(permit, `,"cost":99`))
	}
	assert.Equal(t, "2 83 45 983", h.left())

	bad := h.post("/v1/release", `{"permit":"`+first[:len(first)-5]+`"}`)
	assert.Equal(t, http.StatusUnprocessableEntity, bad.Status, bad.Body)
	assert.Contains(t, bad.Body, `"detail":"permit: `)
	long := strings.Repeat("<", 50_000) // in a permit it is several times as long
	a = h.post("/v1/check", `{"key":"`+long+`","attributes":{"header:x-tenant":"acme"}}`).JSON(t)
	assert.True(t, h.release(a["permit"].(string), ""), "of a client with a long key")
	assert.True(t, h.release(h.take(""), `,"cost":2147483647`), "more than any debt that the bucket can carry")
	assert.True(t, strings.HasPrefix(h.left(), "2 -876000 44 "), "the debt of a hundred years: %s", h.left())
}

func TestPermits_aLeaseEnds(t *testing.T) { overStores(t, permitPolicies, aLeaseEnds) }

func aLeaseEnds(t *testing.T, p *harness.Process) {
	h := holder{p, nil}
	const short = `,"policy":"short"`
	permit := h.take(short)
	require.Eventually(t, func() bool { return h.check(short)["allowed"] == true }, harness.Timeout, harness.Interval,
		"the place of a holder that is gone comes back")
	assert.False(t, h.release(permit, ""))
	assert.Equal(t, http.StatusNotFound, h.post("/v1/renew", `{"permit":"`+permit+`"}`).Status)
}

func TestPermits_inBatches(t *testing.T) { overStores(t, permitPolicies, permitsInBatches) }

func permitsInBatches(t *testing.T, p *harness.Process) {
	h := holder{p, nil}
	const check = `{"key":"alice","attributes":{"header:x-tenant":"acme"}}`
	a := h.post("/v1/checks", `{"checks":[`+check+`,`+check+`,`+check+`]}`)
	require.Equal(t, http.StatusOK, a.Status, a.Body)
	results := a.JSON(t)["results"].([]any)
	assert.Equal(t, false, results[2].(map[string]any)["allowed"])
	for _, r := range results[:2] {
		assert.True(t, h.release(r.(map[string]any)["permit"].(string), ""))
	}
	assert.Equal(t, "2 98 48 998", h.left())
}

func TestMaxWait_checksGetTheirTurnsInOrder(t *testing.T) { overStores(t, permitPolicies, checksWait) }

// checksWait: a token comes every ten minutes, and the policy lets a check wait for thirty.
func checksWait(t *testing.T, p *harness.Process) {
	h := holder{p, nil}
	const policy = `,"policy":"waits"`
	const minute = 60_000
	assert.NotContains(t, h.check(policy+`,"max_wait_ms":3600000`), "wait_ms", "a token is there")
	denied := h.check(policy)
	assert.Equal(t, false, denied["allowed"], "it does not wait")
	assert.InDelta(t, 10*minute, denied["retry_after_ms"], minute)
	for turn := 1; turn <= 3; turn++ {
		a := h.check(policy + `,"max_wait_ms":3600000`)
		require.Equal(t, true, a["allowed"], "turn %d: %v", turn, a)
		assert.InDelta(t, turn*10*minute, a["wait_ms"], minute)
		assert.InDelta(t, -turn, a["remaining"], 0)
		assert.Contains(t, a, "taken_at_us")
	}
	denied = h.check(policy + `,"max_wait_ms":3600000`)
	assert.Equal(t, false, denied["allowed"], "the policy lets no check wait so long")
	assert.NotContains(t, denied, "wait_ms")
	assert.InDelta(t, 10*minute, denied["retry_after_ms"], minute, "then it could wait")
	denied = h.check(policy + `,"max_wait_ms":` + strconv.Itoa(15*minute))
	assert.InDelta(t, 25*minute, denied["retry_after_ms"], minute, "it waits for less than the policy allows")
}

// Of the entry points that cannot tell when a request ends, none takes anything.
func TestForwardAuth_aConcurrencyLimitIsNotImplemented(t *testing.T) {
	p := harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", permitPolicies), "VELOCITY_TRUSTED_PROXIES": "loopback",
	})
	for _, query := range []string{"", "?denied=403"} {
		a := p.MustDo(http.MethodGet, p.URL+"/v1/forward-auth"+query, "",
			"X-Forwarded-Uri: /", "X-Client-ID: alice", "X-Tenant: acme")
		assert.Equal(t, http.StatusNotImplemented, a.Status, a.Body)
		assert.Contains(t, a.JSON(t)["detail"], "the policy has a concurrency limit")
		assert.Empty(t, a.Header.Get("RateLimit-Policy"))
	}
	assert.Equal(t, "2 100 50 1000", holder{p, nil}.left())
	p.Stop()
}

// In front of an upstream, with a token, the routes are those of the decision API, too.
func TestProxy_permitsOfTheDecisionAPI(t *testing.T) {
	url := startAPI(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	p := harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", permitPolicies), "VELOCITY_UPSTREAM_URL": url,
		"VELOCITY_API_TOKEN": "token",
	})
	h := holder{p, []string{"Authorization: Bearer token"}}
	permit := h.take(`,"cost":5`)
	body := `{"permit":"` + permit + `"}`
	for _, path := range []string{"/v1/release", "/v1/renew"} {
		assert.Equal(t, http.StatusUnauthorized, p.MustDo(http.MethodPost, p.URL+path, body).Status)
		assert.Equal(t, http.StatusTeapot, p.MustDo(http.MethodPost, p.URL+path+"/x", body).Status, "the upstream's")
	}
	assert.InDelta(t, 60_000, h.post("/v1/renew", body).JSON(t)["permit_expires_after_ms"], 0)
	assert.True(t, h.release(permit, `,"cost":4`))
	assert.Equal(t, "2 96 49 996", h.left())
	p.Stop()
}

func TestClient_holdsRenewsAndReleases(t *testing.T) {
	p := harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", permitPolicies), "REDIS_ADDR": redistest.Start(t).Addr,
		"VELOCITY_TAKE_TIMEOUT": "20s",
	})
	c, err := client.New(client.Config{URL: p.URL, Timeout: harness.Timeout, HTTPClient: p.Client})
	require.NoError(t, err)
	check := client.Check{Key: "alice", Attributes: map[string]string{"header:x-tenant": "acme"}, Cost: client.Tokens(5)}
	r, err := c.Check(t.Context(), check)
	require.NoError(t, err)
	assert.True(t, r.Allowed)
	assert.Equal(t, time.Minute, r.PermitExpiresAfter)
	lease, err := c.Renew(t.Context(), r.Permit)
	require.NoError(t, err)
	assert.Equal(t, time.Minute, lease)
	for i := range 3 {
		released, err := c.Release(t.Context(), r.Permit, client.Tokens(7))
		require.NoError(t, err)
		assert.Equal(t, i == 0, released)
	}
	assert.Equal(t, "2 93 49 993", holder{p, nil}.left())
	_, err = c.Renew(t.Context(), r.Permit)
	require.ErrorIs(t, err, client.ErrPermitEnded)
	_, err = c.Release(t.Context(), "none", nil)
	require.ErrorIs(t, err, client.ErrInvalid)

	turn := client.Check{Policy: "waits", Key: "alice", MaxWait: time.Hour}
	for i := range 2 {
		r, err = c.Check(t.Context(), turn)
		require.NoError(t, err)
		assert.True(t, r.Allowed)
		assert.InDelta(t, float64(i)*10, r.Wait.Minutes(), 1)
	}
	p.Stop()
}
