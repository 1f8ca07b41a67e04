package httpfiber_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
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

// post asks the decision API as this machine may.
func post(t testing.TB, addr, path, body string) answer {
	t.Helper()
	return call(t, "POST", "http://"+addr+path, body, "Content-Type", "application/json")
}

func TestCheck_answersInTheDocumentedShape(t *testing.T) {
	uneven := decided(t, 0, 1, false)
	uneven.Limits[0].RetryAfter += time.Microsecond
	uneven.Limits[0].ResetAfter += time.Microsecond
	for name, c := range map[string]struct {
		decision decision.Decision
		want     string
	}{
		"allowed": {decided(t, 9, 1, true), `{"allowed":true,"policy":"default","limit":10,"remaining":9,
			"retry_after_ms":0,"reset_after_ms":200,"mode":"enforce","store":"memory","limits":[{"name":"burst",
			"allowed":true,"limit":10,"remaining":9,"retry_after_ms":0,"reset_after_ms":200}]}`},
		"denied": {decided(t, 0, 1, false), `{"allowed":false,"policy":"default","limit":10,"remaining":0,
			"retry_after_ms":200,"reset_after_ms":2000,"mode":"enforce","store":"memory","limits":[{"name":"burst",
			"allowed":false,"limit":10,"remaining":0,"retry_after_ms":200,"reset_after_ms":2000}]}`},
		"waits round up": {uneven, `{"allowed":false,"policy":"default","limit":10,"remaining":0,
			"retry_after_ms":201,"reset_after_ms":2001,"mode":"enforce","store":"memory","limits":[{"name":"burst",
			"allowed":false,"limit":10,"remaining":0,"retry_after_ms":201,"reset_after_ms":2001}]}`},
		"cost above capacity": {decided(t, 10, 11, false), `{"allowed":false,"policy":"default","limit":10,
			"remaining":10,"retry_after_ms":-1,"reset_after_ms":0,"mode":"enforce","store":"memory","limits":[{
			"name":"burst","allowed":false,"limit":10,"remaining":10,"retry_after_ms":-1,"reset_after_ms":0}]}`},
		"in debt": {decided(t, -5, 0, true), `{"allowed":true,"policy":"default","limit":10,"remaining":-5,
			"retry_after_ms":0,"reset_after_ms":3000,"mode":"enforce","store":"memory","limits":[{"name":"burst",
			"allowed":true,"limit":10,"remaining":-5,"retry_after_ms":0,"reset_after_ms":3000}]}`},
		"fell back open": {fellBack(t, decision.OutcomeAllowed), `{"allowed":true,"policy":"default","limit":10,
			"retry_after_ms":0,"mode":"enforce","store":"fallback","limits":[{"name":"burst",
			"allowed":true,"limit":10,"retry_after_ms":0}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			addr := start(t, testConfig(), always(c.decision))
			got := post(t, addr, "/v1/check", `{"key":"alice"}`)
			assert.Equal(t, 200, got.status)
			assert.Equal(t, "application/json", got.header.Get("Content-Type"))
			assert.JSONEq(t, c.want, got.body)
			assert.Empty(t, got.header.Get("RateLimit"), "the headers would be about the caller")
		})
	}
}

func TestCheck_asksWhatTheBodySays(t *testing.T) {
	tenant := clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-tenant"}
	for name, c := range map[string]struct {
		path, body string
		want       policy.Request
		tenant     string
	}{
		"defaults": {"/v1/check", `{"key":"alice"}`, policy.Request{Policy: "default", Key: "alice", Cost: 1, HoldsPermit: true, Estimated: true}, ""},
		"everything": {
			"/v1/check",
			"\n{ \"cost\": 7, \"attributes\":{\"header:X-Tenant\":\"acme\",\"ip\":\"203.0.113.7\"}, \"key\":\"\\u0061\\n{}\", \"policy\":\"search\"}\n",
			policy.Request{Policy: "search", Key: "a\n{}", Cost: 7, Client: netip.MustParseAddr("203.0.113.7"), HoldsPermit: true},
			"acme",
		},
		"peek":     {"/v1/check", `{"key":"a","cost":0}`, policy.Request{Policy: "default", Key: "a", HoldsPermit: true}, ""},
		"escaped":  {"/v1/check", `{"\u006bey":"a"}`, policy.Request{Policy: "default", Key: "a", Cost: 1, HoldsPermit: true, Estimated: true}, ""},
		"greatest": {"/v1/check", `{"key":"a","cost":2147483647}`, policy.Request{Policy: "default", Key: "a", Cost: 1<<31 - 1, HoldsPermit: true}, ""},
		"refund":   {"/v1/refund", `{"key":"a"}`, policy.Request{Op: domain.OpRefund, Policy: "default", Key: "a", Cost: 1}, ""},
		"charge":   {"/v1/charge", `{"key":"a","cost":9}`, policy.Request{Op: domain.OpCharge, Policy: "default", Key: "a", Cost: 9}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var asked policy.Request
			var value string
			var missing error
			addr := start(t, testConfig(), limiterFunc(func(req policy.Request) (d decision.Decision, err error) {
				asked = req
				value, missing = req.Lookup(tenant)
				return decided(t, 9, 1, true), nil
			}))
			require.Equal(t, 200, post(t, addr, c.path, c.body).status)
			assert.NotEmpty(t, asked.ID)
			asked.Lookup, asked.ID = nil, ""
			c.want.Trusted = true // the caller says what conditions ask for
			assert.Equal(t, c.want, asked)
			assert.Equal(t, c.tenant, value)
			if c.tenant == "" {
				assert.ErrorIs(t, missing, domain.ErrNoValue)
			}
		})
	}
}

func TestCheck_namesTheAttributeThatIsMissing(t *testing.T) {
	for field, want := range map[string]string{
		"key":             "key: must not be empty",
		"header:x-tenant": "attributes.header:x-tenant: must be given: a limit of the policy counts by it",
		"ip":              "attributes.ip: must be given: a limit of the policy counts by it",
	} {
		addr := start(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) {
			return decision.Decision{}, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: field, Reason: "must not be empty"}
		}))
		for _, path := range []string{"/v1/check", "/v1/checks"} {
			body := `{"policy":"search"}`
			if path == "/v1/checks" {
				body = `{"checks":[` + body + `]}`
			}
			assert.Contains(t, post(t, addr, path, body).body, want)
		}
	}
}

func TestCheck_reportsEveryOutcome(t *testing.T) {
	allowed, denied := decided(t, 9, 1, true), decided(t, 0, 1, false)
	shadow := denied
	shadow.Shadow = true
	partly := denied
	partly.Limits = append(slices.Clone(denied.Limits), domain.LimitStatus{Name: "tenant", Allowed: true, Capacity: 200, LevelUnknown: true})
	for name, c := range map[string]struct {
		decision decision.Decision
		want     []string
	}{
		"enforced": {allowed, []string{`"allowed":true`, `"mode":"enforce"`}},
		"shadow":   {shadow, []string{`"allowed":true`, `"mode":"shadow"`, `"name":"burst","allowed":false`}},
		"blocked": {
			decision.Decision{Outcome: decision.OutcomeBlocked, Policy: "search", Store: decision.StorePolicy},
			[]string{`{"allowed":false,"policy":"search","mode":"enforce","store":"policy","limits":[]}`},
		},
		"exempt": {
			decision.Decision{Outcome: decision.OutcomeExempt, Policy: "search", Store: decision.StorePolicy},
			[]string{`{"allowed":true,"policy":"search","mode":"enforce","store":"policy","limits":[]}`},
		},
		"a limit that was not looked at": {partly, []string{`{"name":"tenant","allowed":true,"limit":200,"retry_after_ms":0}]`}},
		"a store that fails, in shadow": {
			decision.Decision{Outcome: decision.OutcomeUnavailable, Shadow: true, Policy: "search", Store: decision.StoreFallback},
			[]string{`"allowed":true`},
		},
	} {
		addr := start(t, testConfig(), always(c.decision))
		got := post(t, addr, "/v1/check", `{"key":"a"}`)
		assert.Equal(t, 200, got.status, name)
		for _, want := range c.want {
			assert.Contains(t, got.body, want, name)
		}
	}
}

// badBodies are refused by every route that takes one check.
var badBodies = map[string]struct {
	body   string
	status int
	detail string
}{
	"empty":                {``, 400, "body: "},
	"not JSON":             {`key=alice`, 400, "body: "},
	"cut":                  {`{"key":"al`, 400, "ends too early"},
	"cut after a value":    {`{"key":"alice"`, 400, "body: "},
	"an array":             {`[]`, 400, "body: must be an object"},
	"null":                 {`null`, 400, "body: must be an object"},
	"trailing data":        {`{"key":"a"}{}`, 400, "after its end"},
	"trailing garbage":     {`{"key":"a"} x`, 400, "after its end"},
	"unknown field":        {`{"key":"a","keys":1}`, 400, "keys: is not a known field"},
	"field in other case":  {`{"Key":"a"}`, 400, "Key: is not a known field"},
	"repeated field":       {`{"key":"a","key":"a"}`, 400, "key: is repeated"},
	"repeated by escape":   {`{"key":"a","\u006bey":"a"}`, 400, "key: is repeated"},
	"key is a number":      {`{"key":1}`, 400, "key: must be a string"},
	"key is null":          {`{"key":null}`, 400, "key: must be a string"},
	"policy is an array":   {`{"policy":[],"key":"a"}`, 400, "policy: must be a string"},
	"cost is a string":     {`{"key":"a","cost":"1"}`, 400, "cost: must be a whole number"},
	"cost is a fraction":   {`{"key":"a","cost":1.5}`, 400, "cost: must be a whole number"},
	"cost has an exponent": {`{"key":"a","cost":1e3}`, 400, "cost: must be a whole number"},
	"cost is true":         {`{"key":"a","cost":true}`, 400, "cost: must be a whole number"},
	"deeply nested":        {`{"key":` + strings.Repeat("[", 30_000), 400, "key: must be a string"},
	"not UTF-8":            {"{\"key\":\"\xff\"}", 400, "key: is not UTF-8"},
	"lone surrogate":       {`{"key":"\ud800"}`, 400, "key: has half of a surrogate pair"},
	"attributes no object": {`{"key":"a","attributes":[]}`, 400, "attributes: must be an object"},
	"attribute no string":  {`{"key":"a","attributes":{"header:x":1}}`, 400, "attributes.header:x: must be a string"},
	"attribute unknown":    {`{"key":"a","attributes":{"color":"x"}}`, 400, "attributes.color: must be named"},
	"attribute twice":      {`{"key":"a","attributes":{"header:X":"1","header:x":"2"}}`, 400, "attributes.header:x: is repeated"},
	"attribute no address": {`{"key":"a","attributes":{"ip":"x"}}`, 422, "attributes.ip: is no address"},
	"too many attributes":  {manyAttributes(33), 422, "attributes: holds more than 32"},
	"attribute of no key":  {`{"key":"a","attributes":{"global":"x"}}`, 400, "attributes.global: must be named ip, header:NAME, cookie:NAME, query:NAME or claim:NAME"},
	"empty key":            {`{"key":""}`, 422, "key: must not be empty"},
	"empty policy":         {`{"key":"a","policy":""}`, 422, "policy: must not be empty"},
	"negative cost":        {`{"key":"a","cost":-1}`, 422, "cost: -1: must be from"},
	"cost above the most":  {`{"key":"a","cost":2147483648}`, 422, "cost: 2147483648: must be from"},
	"cost beyond 64 bits":  {`{"key":"a","cost":99999999999999999999}`, 422, "cost: must be at most 2147483647"},
}

func manyAttributes(n int) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = fmt.Sprintf(`"header:x-%d":"v"`, i)
	}
	return `{"key":"a","attributes":{` + strings.Join(parts, ",") + `}}`
}

func TestCheck_badBodiesNameTheField(t *testing.T) {
	addr := start(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) {
		t.Error("a bad body reached the limiter")
		return decision.Decision{}, nil
	}))
	for _, path := range []string{"/v1/check", "/v1/refund", "/v1/charge"} {
		for name, c := range badBodies {
			got := post(t, addr, path, c.body)
			assert.Equal(t, c.status, got.status, "%s %s", path, name)
			assert.Contains(t, got.problem(t)["detail"], c.detail, "%s %s", path, name)
		}
	}
	for _, path := range []string{"/v1/refund", "/v1/charge"} {
		got := post(t, addr, path, `{"key":"a","cost":0}`)
		assert.Equal(t, 422, got.status)
		assert.Contains(t, got.problem(t)["detail"], "cost: 0: must be from 1")
	}
}

func TestCheck_errorsOfTheLimiter(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		detail string
	}{
		"unknown policy": {fmt.Errorf("%w: nope", ports.ErrUnknownPolicy), 404, "policy"},
		"debt":           {fmt.Errorf("charge: %w", domain.ErrDebtExceeded), 422, "cost"},
		"field": {
			&domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "is too odd"}, 422,
			"key: is too odd",
		},
		"store": {fmt.Errorf("%w: 10.1.2.3", ports.ErrUnavailable), 503, "may or may not have been carried out"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := start(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) {
				return decision.Decision{}, c.err
			}))
			for _, path := range []string{"/v1/check", "/v1/refund", "/v1/charge"} {
				got := post(t, addr, path, `{"key":"a"}`)
				assert.Equal(t, c.status, got.status)
				assert.Contains(t, got.problem(t)["detail"], c.detail)
				assert.NotContains(t, got.body, "10.1.2.3")
				assert.Equal(t, c.status == 503, got.header.Get("Retry-After") != "")
			}
		})
	}
}

func TestCheck_closedPolicyIs503WithRetryAfter(t *testing.T) {
	addr := start(t, testConfig(), always(fellBack(t, decision.OutcomeUnavailable)))
	got := post(t, addr, "/v1/check", `{"key":"a"}`)
	assert.Equal(t, 503, got.status)
	assert.Equal(t, "1", got.header.Get("Retry-After"))
	assert.Contains(t, got.problem(t)["type"], "#temporary-reduced-capacity")
}

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

func TestDecisionAPI_mediaTypes(t *testing.T) {
	addr := start(t, testConfig(), always(decided(t, 9, 1, true)))
	for mediaType, status := range map[string]int{
		"application/json": 200, "Application/JSON; charset=utf-8": 200, "application/json;": 200,
		"": 415, "text/plain": 415, "application/x-www-form-urlencoded": 415, "application/jsonx": 415,
		"text/plain; application/json": 415, "multipart/form-data; boundary=x": 415,
	} {
		for path, body := range map[string]string{"/v1/check": `{"key":"a"}`, "/v1/checks": `{"checks":[]}`} {
			got := call(t, "POST", "http://"+addr+path, body, "Content-Type", mediaType)
			assert.Equal(t, status, got.status, "%s %q", path, mediaType)
			if status == 415 {
				assert.Contains(t, got.problem(t)["detail"], "Content-Type: ")
			}
		}
	}
	got := call(t, "POST", "http://"+addr+"/v1/check", `{"key":"a"}`,
		"Content-Type", "application/json", "Content-Encoding", "gzip")
	assert.Equal(t, 415, got.status)
	assert.Contains(t, got.problem(t)["detail"], "Content-Encoding: ")
}

func TestDecisionAPI_token(t *testing.T) {
	cfg := testConfig()
	cfg.APIToken = "s3cret-token"
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"right":               {[]string{"Authorization", "Bearer s3cret-token"}, 200},
		"scheme in any case":  {[]string{"Authorization", "bearer s3cret-token"}, 200},
		"forwarded":           {[]string{"Authorization", "Bearer s3cret-token", "X-Forwarded-For", "203.0.113.7"}, 200},
		"missing":             {nil, 401},
		"wrong":               {[]string{"Authorization", "Bearer s3cret-tokem"}, 401},
		"prefix":              {[]string{"Authorization", "Bearer s3cret"}, 401},
		"longer":              {[]string{"Authorization", "Bearer s3cret-token2"}, 401},
		"empty":               {[]string{"Authorization", "Bearer "}, 401},
		"other scheme":        {[]string{"Authorization", "Basic s3cret-token"}, 401},
		"without scheme":      {[]string{"Authorization", "s3cret-token"}, 401},
		"twice, once rightly": {[]string{"Authorization", "Bearer s3cret-token", "Authorization", "Bearer x"}, 401},
	} {
		for _, path := range []string{"/v1/check", "/v1/checks", "/v1/refund", "/v1/charge"} {
			body := map[string]string{"/v1/checks": `{"checks":[]}`}[path]
			if body == "" {
				body = `{"key":"a"}`
			}
			got := call(t, "POST", "http://"+addr+path, body, append(c.headers, "Content-Type", "application/json")...)
			assert.Equal(t, c.status, got.status, "%s %s", path, name)
			assert.NotContains(t, got.body, "s3cret")
			if c.status == 401 {
				assert.Equal(t, "Bearer", got.header.Get("WWW-Authenticate"))
				assert.Contains(t, got.problem(t)["detail"], "Authorization: ")
			}
		}
	}
	assert.Equal(t, 200, call(t, "GET", "http://"+addr+"/api/resource", "").status, "the resource needs no token")
}

func TestDecisionAPI_protectedWithoutToken(t *testing.T) {
	for name, c := range map[string]struct {
		peer    string
		trusted []string
		status  int
	}{
		"this machine":         {"127.0.0.1", nil, 200},
		"this machine, IPv6":   {"::1", nil, 200},
		"this machine, mapped": {"::ffff:127.0.0.1", nil, 200},
		"a trusted proxy":      {"10.1.1.1", []string{"private"}, 200},
		"anyone else":          {"203.0.113.7", []string{"private"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.TrustedProxies = c.trusted
			addr := startFor(t, c.peer, cfg, always(decided(t, 9, 1, true)))
			got := post(t, addr, "/v1/check", `{"key":"a"}`)
			assert.Equal(t, c.status, got.status)
			if c.status == 403 {
				assert.Contains(t, got.problem(t)["detail"], "VELOCITY_API_TOKEN")
			}
		})
	}
}

// checkFrom is a POST of a check over HTTP/1.1, with these lines in place of Host.
func checkFrom(target, version, lines string) string {
	const body = `{"key":"a"}`
	return fmt.Sprintf("POST %s HTTP/%s\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", target, version, lines, len(body), body)
}

// protectedPaths are those of the decision API.
var protectedPaths = []string{"/v1/check", "/v1/checks", "/v1/refund", "/v1/charge"}

func TestDecisionAPI_withoutTokenForwardedRequestsAreRefused(t *testing.T) {
	cfg := testConfig()
	cfg.TrustedProxies = []string{"private"}
	reached := 0
	limiter := limiterFunc(func(policy.Request) (decision.Decision, error) {
		reached++
		return decided(t, 9, 1, true), nil
	})
	for _, peer := range []string{"127.0.0.1", "10.1.1.1"} {
		addr := startFor(t, peer, cfg, limiter)
		for _, line := range []string{
			"X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-For:", "x-forwarded-for: 203.0.113.7",
			"X-Forwarded-Host: api.example.com", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-Server: a",
			"X-Forwarded-Prefix: /x", "X-Real-IP: 203.0.113.7", "X-Real-Ip:", "Forwarded: for=203.0.113.7", "Forwarded:",
			"Via: 1.1 proxy", "X-Original-URI: /v1/check", "X-Original-Forwarded-For: 203.0.113.7", "X-Envoy-External-Address: 203.0.113.7",
			"X-Client-IP: 203.0.113.7", "True-Client-IP: 203.0.113.7", "CF-Connecting-IP: 203.0.113.7", "CDN-Loop: a",
			"X-Cluster-Client-Ip: 203.0.113.7",
		} {
			for _, path := range protectedPaths {
				got := exchange(t, addr, checkFrom(path, "1.1", "Host: localhost\r\n"+line+"\r\n"), 1)[0]
				assert.Equal(t, 403, got.status, "%s %s", path, line)
				assert.Contains(t, got.problem(t)["detail"], "VELOCITY_API_TOKEN")
				name, _, _ := strings.Cut(line, ":")
				assert.Contains(t, strings.ToLower(got.problem(t)["detail"].(string)), strings.ToLower(name), "it names the header")
			}
		}
		got := exchange(t, addr, checkFrom("/v1/check", "1.0", "Host: localhost\r\n"), 1)[0]
		assert.Equal(t, 403, got.status)
		assert.Contains(t, got.problem(t)["detail"], "HTTP/1.0")
	}
	assert.Zero(t, reached)
}

func TestDecisionAPI_withoutTokenTheHostIsThisMachineOrAnAddress(t *testing.T) {
	addr := start(t, testConfig(), always(decided(t, 9, 1, true)))
	for host, status := range map[string]int{
		"localhost": 200, "localhost:3000": 200, "LOCALHOST.": 200, "127.0.0.1:3000": 200, "[::1]:3000": 200, "192.0.2.7": 200,
		"evil.example": 403, "evil.example:3000": 403, "localhost.evil.example": 403, "velocity": 403,
	} {
		got := exchange(t, addr, checkFrom("/v1/check", "1.1", "Host: "+host+"\r\n"), 1)[0]
		assert.Equal(t, status, got.status, host)
		if status == 403 {
			detail := got.problem(t)["detail"]
			assert.Contains(t, detail, "VELOCITY_API_TOKEN", host)
			assert.Contains(t, detail, "Host is neither localhost nor an address", host)
		}
	}
	for target, status := range map[string]int{
		"http://localhost/v1/check": 200, "http://evil.example/v1/check": 403,
	} {
		assert.Equal(t, status, exchange(t, addr, checkFrom(target, "1.1", "Host: localhost\r\n"), 1)[0].status, target)
	}
	assert.Equal(t, 403, exchange(t, addr, checkFrom("http://localhost/v1/check", "1.1", "Host: evil.example\r\n"), 1)[0].status)
}

// TestDecisionAPI_withATokenProxiesMayForward: the token says enough.
func TestDecisionAPI_withATokenProxiesMayForward(t *testing.T) {
	cfg := testConfig()
	cfg.APIToken = "s3cret-token"
	addr := startFor(t, "203.0.113.7", cfg, always(decided(t, 9, 1, true)))
	lines := "Host: velocity.example\r\nVia: 1.1 proxy\r\nX-Forwarded-For: 192.0.2.1\r\nAuthorization: Bearer s3cret-token\r\n"
	for _, version := range []string{"1.0", "1.1"} {
		assert.Equal(t, 200, exchange(t, addr, checkFrom("/v1/check", version, lines), 1)[0].status)
	}
}
