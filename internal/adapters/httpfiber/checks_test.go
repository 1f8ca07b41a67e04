package httpfiber_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestChecks_answerInOrderWithProblemsInPlace(t *testing.T) {
	left := domain.Tokens(3)
	var asked []string
	addr := start(t, testConfig(), limiterFunc(func(req policy.Request) (decision.Decision, error) {
		asked = append(asked, req.Key)
		switch req.Policy {
		case "nope":
			return decision.Decision{}, ports.ErrUnknownPolicy
		case "closed":
			return fellBack(t, decision.OutcomeUnavailable), nil
		}
		left -= req.Cost
		return decided(t, left, req.Cost, true), nil
	}))
	got := post(t, addr, "/v1/checks", `{"checks":[{"key":"a"},{"key":"","cost":1},{"key":"a","cost":2},
		{"key":"b","policy":"nope"},{"key":"c","policy":"closed"},{"key":"d","cost":-1},{"key":"a","cost":0}]}`)
	require.Equal(t, 200, got.status, got.body)
	assert.Equal(t, []string{"a", "a", "b", "c", "a"}, asked)
	var body struct {
		Results []struct {
			Allowed   *bool  `json:"allowed"`
			Remaining int    `json:"remaining"`
			Status    int    `json:"status"`
			Detail    string `json:"detail"`
			Instance  string `json:"instance"`
			RequestID string `json:"request_id"`
		} `json:"results"`
	}
	require.NoError(t, json.Unmarshal([]byte(got.body), &body), got.body)
	require.Len(t, body.Results, 7)
	for i, status := range []int{0, 422, 0, 404, 503, 422, 0} {
		r := body.Results[i]
		assert.Equal(t, status, r.Status, i)
		assert.Equal(t, status == 0, r.Allowed != nil, i)
		if status != 0 {
			assert.Equal(t, fmt.Sprintf("/v1/checks#/checks/%d", i), r.Instance)
			assert.Equal(t, got.header.Get("X-Request-Id"), r.RequestID)
		}
	}
	assert.Equal(t, 2, body.Results[0].Remaining)
	assert.Equal(t, 0, body.Results[2].Remaining)
	assert.Contains(t, body.Results[1].Detail, "key")
}

func TestChecks_badBodiesFailTheWholeCall(t *testing.T) {
	addr := start(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) {
		t.Error("a bad body reached the limiter")
		return decision.Decision{}, nil
	}))
	many := func(n int) string { return `{"checks":[` + strings.Repeat(`{"key":"a"},`, n-1) + `{"key":"a"}]}` }
	for body, c := range map[string]struct {
		status int
		detail string
	}{
		`{}`:                             {400, "checks: is missing"},
		`[]`:                             {400, "body: must be an object"},
		`{"checks":{}}`:                  {400, "checks: must be an array"},
		`{"checks":[{"key":"a"}],"x":1}`: {400, "x: is not a known field"},
		`{"checks":[],"checks":[]}`:      {400, "checks: is repeated"},
		`{"checks":[{"key":"a"}`:         {400, "JSON"},
		`{"checks":[{"key":"a"}]} 1`:     {400, "after its end"},
		many(1001):                       {422, "checks: holds more than 1000"},
	} {
		got := post(t, addr, "/v1/checks", body)
		assert.Equal(t, c.status, got.status, body[:min(len(body), 80)])
		assert.Contains(t, got.problem(t)["detail"], c.detail)
	}
}

// TestChecks_aWrongCheckIsAProblemInItsPlace: each body that /v1/check refuses is refused alike among others.
func TestChecks_aWrongCheckIsAProblemInItsPlace(t *testing.T) {
	addr := start(t, testConfig(), limiterFunc(func(req policy.Request) (decision.Decision, error) {
		assert.Equal(t, "right", req.Key, "a wrong check reached the limiter")
		return decided(t, 9, 1, true), nil
	}))
	for name, c := range badBodies {
		if !json.Valid([]byte(c.body)) {
			continue // it would end the array
		}
		got := post(t, addr, "/v1/checks", `{"checks":[{"key":"right"},`+c.body+`,{"key":"right"}]}`)
		require.Equal(t, 200, got.status, "%s: %s", name, got.body)
		var body struct {
			Results []struct {
				Allowed          bool
				Status           int
				Detail, Instance string
			}
		}
		require.NoError(t, json.Unmarshal([]byte(got.body), &body), name)
		require.Len(t, body.Results, 3, name)
		assert.True(t, body.Results[0].Allowed, name)
		assert.True(t, body.Results[2].Allowed, name)
		assert.Equal(t, c.status, body.Results[1].Status, name)
		assert.Contains(t, body.Results[1].Detail, strings.Replace(c.detail, "body: ", "check: ", 1), name)
		assert.Equal(t, "/v1/checks#/checks/1", body.Results[1].Instance, name)
	}
}

func TestChecks_aLongKeyIsTheSameAloneAndAmongOthers(t *testing.T) {
	addr := start(t, testConfig(), always(decided(t, 9, 1, true)))
	for length, status := range map[int]int{60_000: 200, 64<<10 - len(`{"key":""}`): 200, 64<<10 - len(`{"key":""}`) + 1: 413, 100_000: 413} {
		check := `{"key":"` + strings.Repeat("a", length) + `"}`
		assert.Equal(t, status, post(t, addr, "/v1/check", check).status, length)
		got := post(t, addr, "/v1/checks", `{"checks":[{"key":"b"},`+check+`]}`)
		require.Equal(t, 200, got.status, length)
		assert.Equal(t, status == 413, strings.Contains(got.body, `"status":413,"detail":"check: must be at most 65536 bytes"`), length)
		assert.Equal(t, status == 200, strings.Count(got.body, `"allowed":true,"policy"`) == 2, length)
	}
}

func TestChecks_takesNoneAndAThousand(t *testing.T) {
	n := 0
	addr := start(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) {
		n++
		return decided(t, 9, 1, true), nil
	}))
	assert.JSONEq(t, `{"results":[]}`, post(t, addr, "/v1/checks", `{"checks":[]}`).body)
	got := post(t, addr, "/v1/checks", `{"checks":[`+strings.Repeat(`{"key":"a"},`, 999)+`{"key":"a"}]}`)
	assert.Equal(t, 200, got.status)
	assert.Equal(t, 1000, n)
	assert.Equal(t, 1000, strings.Count(got.body, `"allowed":true,"policy"`))
}
