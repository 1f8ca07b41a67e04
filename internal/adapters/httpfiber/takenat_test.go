package httpfiber_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/webtest"
)

// TestTakenAt_isOfTakesThatAStoreDecided: 2026-03-29 12:00 UTC, in microseconds.
func TestTakenAt_isOfTakesThatAStoreDecided(t *testing.T) {
	quotas := webtest.Quotas(t)
	allowed := quotas["the quota is nearer to its end"].Decision
	for name, c := range map[string]struct {
		path     string
		decision decision.Decision
		want     bool
	}{
		"a take":              {"/v1/check", allowed, true},
		"one of several":      {"/v1/checks", allowed, true},
		"a denial":            {"/v1/check", quotas["both deny"].Decision, true},
		"a peek":              {"/v1/check", quotas["nothing is used"].Decision, false},
		"a peek among checks": {"/v1/checks", quotas["nothing is used"].Decision, false},
		"a refund":            {"/v1/refund", allowed, false},
		"a charge":            {"/v1/charge", allowed, false},
		"a failure policy":    {"/v1/check", quotas["a failure policy"].Decision, false},
		"an exempt client":    {"/v1/check", decision.Decision{Outcome: decision.OutcomeExempt, Policy: "a", Cost: 1, Store: decision.StorePolicy}, false},
	} {
		body := `{"key":"a"}`
		if c.path == "/v1/checks" {
			body = `{"checks":[` + body + `]}`
		}
		got := post(t, start(t, testConfig(), always(c.decision)), c.path, body)
		require.Equal(t, 200, got.status, name)
		assert.Equal(t, c.want, strings.Contains(got.body, `,"taken_at_us":1774785600000000,"limits":[`), "%s: %s", name, got.body)
		assert.Equal(t, c.want, strings.Contains(got.body, "taken_at_us"), name)
	}
}

func TestTakenAt_isPassedOnByRefundAndCharge(t *testing.T) {
	var asked policy.Request
	addr := start(t, testConfig(), limiterFunc(func(req policy.Request) (decision.Decision, error) {
		asked = req
		return decided(t, 9, 1, true), nil
	}))
	for _, path := range []string{"/v1/refund", "/v1/charge"} {
		for text, want := range map[string]domain.Instant{
			"1774785600000000": 1774785600000000, "0": 0, "9007199254740991": 1<<53 - 1,
		} {
			require.Equal(t, 200, post(t, addr, path, `{"key":"a","taken_at_us":`+text+`}`).status)
			assert.Equal(t, want, asked.TakenAt, "%s %s", path, text)
		}
		require.Equal(t, 200, post(t, addr, path, `{"key":"a"}`).status)
		assert.Zero(t, asked.TakenAt)
	}
}

func TestTakenAt_refusals(t *testing.T) {
	addr := start(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) {
		t.Error("a bad body reached the limiter")
		return decision.Decision{}, nil
	}))
	for text, c := range map[string]struct {
		status int
		detail string
	}{
		`-1`:                   {422, "taken_at_us: must be from 0 to 9007199254740991"},
		`9007199254740992`:     {422, "taken_at_us: must be from 0 to 9007199254740991"},
		`99999999999999999999`: {422, "taken_at_us: must be at most 9007199254740991"},
		`1.5`:                  {400, "taken_at_us: must be a whole number, without fraction and exponent"},
		`"1"`:                  {400, "taken_at_us: must be a whole number"},
		`null`:                 {400, "taken_at_us: must be a whole number"},
		`1,"taken_at_us":1`:    {400, "taken_at_us: is repeated"},
	} {
		for _, path := range []string{"/v1/refund", "/v1/charge"} {
			got := post(t, addr, path, `{"key":"a","taken_at_us":`+text+`}`)
			assert.Equal(t, c.status, got.status, "%s %s", path, text)
			assert.Equal(t, c.detail, got.problem(t)["detail"], "%s %s", path, text)
		}
	}
	const back = `{"key":"a","taken_at_us":1}`
	got := post(t, addr, "/v1/check", back)
	assert.Equal(t, 400, got.status, "a check is decided now")
	assert.Equal(t, "taken_at_us: is not a known field", got.problem(t)["detail"])
	assert.Contains(t, post(t, addr, "/v1/checks", `{"checks":[`+back+`]}`).body, "taken_at_us: is not a known field")
}
