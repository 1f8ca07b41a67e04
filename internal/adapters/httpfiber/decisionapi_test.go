package httpfiber_test

import (
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
