package policies

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/cli/command"
)

// byKey is a policy file of one policy by a key.
func byKey(key string) string {
	return "policies:\n- name: p\n  key: " + key + "\n  limits: [ { rate: 1/s, capacity: 5 } ]\n"
}

func TestValidate_warnsOfKeysThatLookLikeSecrets(t *testing.T) {
	t.Setenv("VELOCITY_KEY_SECRET", "")
	for key, want := range map[string]bool{
		"header:Authorization": true, "header:X-API-Key": true, "header:apikey": true, "header:X-Auth-Token": true, "cookie:sid": true,
		"cookie:theme": true, "query:api_key": true, "query:key": true, "query:access_token": true, "header:Client-Secret": true,
		"header:X-Session-Id": true, "query:password": true, "header:Proxy-Authorization": true, "[ip, query:token]": true,
		"header:X-Auth-Key": true, "header:X-Functions-Key": true, "header:Ocp-Apim-Subscription-Key": true, "header:X-Access-Key": true,
		"header:X-Client-Key": true, "header:X-Signature": true, "query:sig": true,
		"header:Idempotency-Key": false, "header:X-Cache-Key": false, "header:Partition-Key": false, "query:design": false,
		"ip": false, "global": false, "header:X-Client-ID": false, "header:X-Tenant": false, "query:user": false, "header:X-Monkey": false,
		"{ from: header:X-API-Key, secret: true }": false, "{ from: cookie:sid, secret: true }": false,
	} {
		found := output(t, "validate", policyFile(t, byKey(key)))
		assert.Equal(t, want, strings.Contains(found, "warning: p: the key "), "%s: %s", key, found)
		assert.Equal(t, want, strings.Contains(found, "looks like a secret, and the store, logs and pages hold it as it is: write { from: "), key)
	}
}

func TestValidate_warnsOncePerSourceAndOfWhatIsSecretElsewhere(t *testing.T) {
	t.Setenv("VELOCITY_KEY_SECRET", "0123456789abcdef")
	found := output(t, "validate", policyFile(t, `
shared:
- { name: org, key: header:X-Customer, rate: 1/s, capacity: 5 }
policies:
- { name: a, match: { path: /a }, key: { from: header:X-Customer, secret: true }, limits: [ { rate: 1/s, capacity: 5 } ] }
- { name: b, match: { path: /b }, key: cookie:sid, limits: [ { rate: 1/s, capacity: 5 }, { use: org } ] }
- { name: c, key: cookie:sid, limits: [ { rate: 1/s, capacity: 5 } ] }
`))
	assert.Contains(t, found, "header:x-customer (secret)")
	assert.Contains(t, found, "warning: shared/org: the key header:x-customer is secret under another policy, and the store, logs and pages hold it as it is: "+
		"write { from: header:x-customer, secret: true }: docs/policies.md#secret-keys\n")
	assert.Contains(t, found, "warning: b, c: the key cookie:sid looks like a secret")
	assert.Equal(t, 2, strings.Count(found, "warning: "))
	assert.NotContains(t, found, "VELOCITY_KEY_SECRET", "which is set")
}

func TestValidate_saysThatTheSecretWasNotChecked(t *testing.T) {
	file := policyFile(t, byKey("{ from: cookie:sid, secret: true }"))
	t.Setenv("VELOCITY_KEY_SECRET", "")
	assert.Contains(t, output(t, "validate", file), "hint: VELOCITY_KEY_SECRET is not set here: a service with this file does not start without it\n")
	assert.NotContains(t, output(t, "validate", policyFile(t, byKey("ip"))), "VELOCITY_KEY_SECRET")

	t.Setenv("VELOCITY_KEY_SECRET", "short")
	var errs strings.Builder
	assert.Equal(t, 1, Validate.Execute(t.Context(), []string{file}, command.Streams{Out: &errs, Err: &errs}))
	assert.Contains(t, errs.String(), "VELOCITY_KEY_SECRET: 5 bytes: must have at least 16 bytes")
	assert.NotContains(t, errs.String(), "short")
}

func TestExplain_showsTheHMACOfASecretKey(t *testing.T) {
	file := policyFile(t, byKey("{ from: header:X-API-Key, secret: true }")+"  missing_key: refuse\n  overrides: [ { keys: ['partner-*'], limits: [ { name: p, rate: 1/s, capacity: 50 } ] } ]\n")
	t.Setenv("VELOCITY_KEY_SECRET", "0123456789abcdef")
	found := output(t, "explain", "-policies", file, "GET", "/", "-H", "X-API-Key: partner-1")
	assert.NotContains(t, found, "partner-1")
	assert.Regexp(t, `client hmac:[0-9a-f]{64}, cost 1\n`, found)
	assert.Regexp(t, `p:h:x-api-key=hmac:[0-9a-f]{64} +p +1/s +50 `, found)
	assert.NotContains(t, found, "VELOCITY_KEY_SECRET")
	assert.Contains(t, output(t, "explain", "-policies", file, "GET", "/"),
		"\nrefused, 401: header:x-api-key: must be sent: requests are counted by it\n")
	t.Setenv("VELOCITY_KEY_SECRET", "")
	assert.Contains(t, output(t, "explain", "-policies", file, "GET", "/", "-H", "X-API-Key: partner-1"),
		"\nVELOCITY_KEY_SECRET is not set here: the service has other HMACs\n")
}

// Nothing that simulate writes has a value of a secret key, also of lines that it cannot read; and both sides of a comparison
// have the same clients without the setting.
func TestSimulate_showsNoSecretKey(t *testing.T) {
	t.Setenv("VELOCITY_KEY_SECRET", "")
	line := func(at, target string) string {
		return `192.0.2.1 - - [10/Oct/2026:13:55:` + at + ` +0000] "GET ` + target + ` HTTP/1.1" 200 5 "-" "-"` + "\n"
	}
	log := filepath.Join(t.TempDir(), "access.log")
	require.NoError(t, os.WriteFile(log, []byte(line("01", "/?key=raw-1")+line("01", "/?key=raw-1")+line("03", "/?key=raw-2")+
		line("04", "/%00?key=raw-3")+"GET /?key=raw-4 is no line\n"+line("05", "/")+line("06", "/?key=raw-5&key=raw-6")), 0o600))
	key := "{ from: query:key, secret: true }"
	file, other := policyFile(t, byKey(key)+"  missing_key: refuse\n"), policyFile(t, strings.ReplaceAll(byKey(key), "capacity: 5", "capacity: 1"))
	decisions, html := filepath.Join(t.TempDir(), "decisions"), filepath.Join(t.TempDir(), "page.html")
	for _, format := range [][]string{nil, {"-json"}} {
		args := append([]string{"simulate", "-policies", file, "-compare", other, "-decisions", decisions, "-html", html}, format...)
		found := output(t, append(args, log)...)
		written := found + read(t, decisions) + read(t, html)
		assert.NotContains(t, written, "raw-")
		assert.Contains(t, found, "hmac:")
	}
	clients := regexp.MustCompile("hmac:[0-9a-f]{64}").FindAllString(read(t, decisions), -1)
	slices.Sort(clients)
	assert.Len(t, slices.Compact(clients), 2, "the client is the same in both")
	found := output(t, "simulate", "-policies", file, "-compare", other, log)
	assert.Contains(t, found, "1 line is no request\n  "+log+":5: there is no time\n")
	assert.Contains(t, found, "1 request has no key and would be refused with 401\n")
	assert.Contains(t, found, "VELOCITY_KEY_SECRET is not set here: the service has other HMACs")
	changed := regexp.MustCompile(`(?m)^p +(hmac:[0-9a-f]{64}) +(\d+) +(\d+)$`).FindStringSubmatch(found)
	require.NotNil(t, changed, found)
	assert.Equal(t, []string{"1", "0"}, changed[2:])
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}
