package policies

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

const plansByHeader = `policies:
  - name: beta
    match: { path: "/api/**", headers: { X-Beta: ["1", "yes"] } }
    limits: [ { rate: 1/s, capacity: 1 } ]
  - name: api
    match: { path: "/api/**" }
    key: header:X-Account
    limits: [ { name: burst, rate: 5/s, capacity: 10 } ]
    overrides:
      - { keys: [acme], limits: [ { name: burst, capacity: 50 } ] }
      - { when: { "header:X-Plan": [pro, team] }, limits: [ { name: burst, rate: 50/s, capacity: 100 } ] }
      - { when: { ip: [10.0.0.0/8], "header:X-Region": eu }, limits: [ { name: burst, capacity: 20 } ] }
`

func TestExplain_saysWhichOverrideAppliesAndWhy(t *testing.T) {
	file := policyFile(t, plansByHeader)
	explain := func(args ...string) string {
		return output(t, append([]string{"explain", "-policies", file, "GET", "/api/x", "-header", "X-Account: a1"}, args...)...)
	}
	assert.Equal(t, `beta  no: not every header fits: header:x-beta is 1 or yes
api   applies: /api/**

client a1, cost 1
the override on line 11 applies: header:x-plan is team
BUCKETS             LIMIT  RATE  CAPACITY  COST  FULL AGAIN
api:h:x-account=a1  burst  50/s  100       1     after 2s

Overrides by header:x-plan, header:x-region need a peer in VELOCITY_TRUSTED_PROXIES. From any other peer the service ignores the header there.
`, explain("-header", "X-Plan: team"))
	assert.Contains(t, explain("-client", "10.1.2.3", "-H", "x-region: eu"), "the override on line 12 applies: ip is 10.0.0.0/8 and header:x-region is eu\n")
	assert.Contains(t, explain("-header", "X-Plan: free"), `no override applies:
  line 10: the client does not match acme
  line 11: header:x-plan is free, and must be pro or team
  line 12: ip is 127.0.0.1, and must be 10.0.0.0/8, and the request has no header:x-region, which must be eu
`)
	noKey := output(t, "explain", "-policies", file, "GET", "/api/x", "-header", "X-Plan: free")
	assert.Contains(t, noKey, "  line 10: the request has no value for the key, header:x-account, so only a * alone would match\n")
	shared := `shared: [ { name: org, key: header:X-Org, rate: 5/s, capacity: 10 } ]
` + strings.ReplaceAll(plansByHeader, "capacity: 10 } ]", "capacity: 10 }, { use: org } ]")
	noOrg := output(t, "explain", "-policies", policyFile(t, shared), "GET", "/api/x", "-header", "X-Account: a1")
	assert.Contains(t, noOrg, "  line 11: the client does not match acme\n", "though another limit's key is missing")
	acme := output(t, "explain", "-policies", file, "GET", "/api/x", "-header", "X-Account: acme", "-header", "X-Plan: pro")
	assert.Contains(t, acme, "the override on line 10 applies: the client matches acme\n")
	beta := explain("-header", "X-Beta: yes")
	assert.Contains(t, beta, "beta  applies: /api/** where header:x-beta is 1 or yes\n")
	assert.NotContains(t, beta, "override")
}

func TestValidate_warnsThatConditionsShouldFollowFromTheKey(t *testing.T) {
	out := output(t, "validate", policyFile(t, plansByHeader))
	assert.Contains(t, out, "burst where header:x-plan is pro or team")
	assert.Contains(t, out, "warning: api: header:x-plan, ip, header:x-region should follow from the key (header:x-account)")
	assert.Contains(t, out, "warning: api: header:x-plan, header:x-region is believed only from VELOCITY_TRUSTED_PROXIES")
	assert.NotContains(t, out, "never applies")

	out = output(t, "validate", policyFile(t, strings.Replace(plansByHeader, "key: header:X-Account", `key: [ "header:X-Account", "header:X-Plan", ip ]`, 1)))
	assert.Contains(t, out, "warning: api: header:x-region should follow from the key")
	out = output(t, "validate", policyFile(t, bothKinds))
	assert.NotContains(t, out, "warning")
}

func TestValidate_aConditionOfASecretKeyFollowsFromIt(t *testing.T) {
	t.Setenv("VELOCITY_KEY_SECRET", "0123456789abcdef")
	key := `key: [ { from: header:X-Account, secret: true }, { from: header:X-Plan, secret: true }, ip ]`
	out := output(t, "validate", policyFile(t, strings.Replace(plansByHeader, "key: header:X-Account", key, 1)))
	assert.Contains(t, out, "warning: api: header:x-region should follow from the key")
}

func TestExplain_showsNoPatternOfASecretKey(t *testing.T) {
	t.Setenv("VELOCITY_KEY_SECRET", "0123456789abcdef")
	text := strings.Replace(plansByHeader, "key: header:X-Account", "key: { from: header:X-Account, secret: true }", 1)
	text = strings.Replace(text, `"header:X-Plan": [pro, team]`, `"header:X-Account": [pro, team]`, 1)
	out := output(t, "explain", "-policies", policyFile(t, text), "GET", "/api/x", "-header", "X-Account: a1")
	assert.Contains(t, out, "  line 10: the client matches none of its keys\n  line 11: header:x-account has none of the values\n")
	out = output(t, "explain", "-policies", policyFile(t, text), "GET", "/api/x", "-header", "X-Account: acme")
	assert.Contains(t, out, "the override on line 10 applies: the client matches one of its keys\n")
	assert.NotContains(t, out, "acme")
	out = output(t, "explain", "-policies", policyFile(t, text), "GET", "/api/x", "-header", "X-Account: pro")
	assert.Contains(t, out, "the override on line 11 applies: header:x-account has one of the values\n")
}
