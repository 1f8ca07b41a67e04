package policies

import (
	"bytes"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
)

func TestNewWrittenRequest_splitsTheTargetAsTheServiceDoes(t *testing.T) {
	for target, want := range map[string]struct{ host, path, q string }{
		"/login":                                 {"", "/login", ""},
		"//login":                                {"", "/login", ""},
		"//login/":                               {"", "/login/", ""},
		"///a//login?q=1":                        {"", "/a/login", "1"},
		"//localhost/search":                     {"", "/localhost/search", ""},
		"/login?q=http://x/":                     {"", "/login", "http://x/"},
		"/login?q=1#?q=2":                        {"", "/login", "1"},
		"/login#x?q=1":                           {"", "/login", ""},
		"/a:b":                                   {"", "/a:b", ""},
		"/a|b\"":                                 {"", "/a%7Cb%22", ""},
		"http://localhost:3000/search":           {"localhost:3000", "/search", ""},
		"https://user@api.example.com//x/../y?q": {"api.example.com", "/y", ""},
		"HTTP://api.example.com":                 {"api.example.com", "/", ""},
		"http://api.example.com?q=1":             {"api.example.com", "/", "1"},
		"http://[2001:db8::1]:80/x":              {"[2001:db8::1]:80", "/x", ""},
	} {
		r, err := newWrittenRequest("GET", target, nil, cleanpath.Rules{})
		require.NoError(t, err, target)
		assert.Equal(t, want.host, r.Host, target)
		assert.Equal(t, want.path, r.Path, target)
		assert.Equal(t, want.q, r.query.Get("q"), target)
	}
}

func TestNewWrittenRequest_aHostWithoutASchemeIsNoPath(t *testing.T) {
	for _, target := range []string{"localhost:3000/search", "mailto:a@example.com", "search", "", "*", "ftp://a/b", "http:///x", "http://a b/"} {
		_, err := newWrittenRequest("GET", target, nil, cleanpath.Rules{})
		assert.Error(t, err, target)
	}
}

func TestNewWrittenRequest_methodsAreWords(t *testing.T) {
	for _, method := range []string{"", "GET /", "GET,POST", "/login", "G\nT"} {
		_, err := newWrittenRequest(method, "/", nil, cleanpath.Rules{})
		assert.ErrorContains(t, err, "must be a method", method)
	}
	r, err := newWrittenRequest("version-control", "/", nil, cleanpath.Rules{})
	require.NoError(t, err)
	assert.Equal(t, "VERSION-CONTROL", r.Method)
}

func TestReadHeader_refusesWhatIsNoLineOfAHeader(t *testing.T) {
	for _, line := range []string{"", "X", ":", ": a", " : a", "a b: c", "X: a\r\nY: b", "authorization a-token"} {
		_, err := readHeader([]string{"X-A: b", line})
		assert.EqualError(t, err, "-header: must be 'Name: value'", "without the line, which may have a token")
	}
	h, err := readHeader([]string{" X-A :  b c ", "x-a: d"})
	require.NoError(t, err)
	assert.Equal(t, http.Header{"X-A": {"b c", "d"}}, h)
}

func TestExplain_saysWhoseCostIsBelievedAndWhenItIsTooHigh(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`policies:
- { name: model, match: { path: /m }, cost: "header:X-Tokens", limits: [{ name: tokens, quota: 100/day }] }
- { name: default, limits: [{ rate: 1/s, capacity: 1 }] }
`), 0o600))
	explain := func(target, tokens string) string {
		var out bytes.Buffer
		e := explainFlags{file: file, client: "192.0.2.1", headers: []string{"X-Tokens: " + tokens}}
		require.NoError(t, e.run(t.Context(), []string{"GET", target}, command.Streams{Out: &out, Err: &out}))
		return out.String()
	}
	const believed, never = "believes header:x-tokens only from VELOCITY_TRUSTED_PROXIES. From any other peer the cost is 1.",
		"can never pass: it costs more than the limit tokens can hold."
	assert.Contains(t, explain("/m", "101"), believed)
	assert.Contains(t, explain("/m", "101"), never)
	assert.Contains(t, explain("/m", "100"), believed)
	assert.NotContains(t, explain("/m", "100"), never)
	assert.NotContains(t, explain("/", "101"), "believes")
}

func TestExplain_verifiesATokenAndSaysWhichClaimsWereUsed(t *testing.T) {
	folder, write := folderOfFiles(t)
	secret := strings.Repeat("s", 32)
	write("secret", secret)
	file := write("p.yaml", `jwt: { hmac_secret_file: secret, issuer: id }
policies:
- { name: api, key: claim:sub, limits: [{ name: user, rate: 1/s, capacity: 1 }, { name: role, rate: 1/s, capacity: 1, key: claim:roles }] }
`)
	sign := func(claims jwt.MapClaims, secret string) string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
		require.NoError(t, err)
		return text
	}
	explain := func(file, token string, headers ...string) (string, error) {
		var out bytes.Buffer
		e := explainFlags{file: file, client: "192.0.2.1", token: token, headers: headers}
		err := e.run(t.Context(), []string{"GET", "/"}, command.Streams{Out: &out, Err: &out})
		return out.String(), err
	}
	good := jwt.MapClaims{"sub": "alice", "iss": "id", "exp": 4102444800, "roles": []string{"admin"}}
	text := sign(good, secret)
	for name, c := range map[string]struct {
		token   string
		headers []string
		want    []string
	}{
		"of the flag":   {text, nil, []string{"client alice", "token: verified: HS256, expires 2100-01-01T00:00:00Z\n", `claim:sub = "alice"`, "claim:roles = an array"}},
		"of a file":     {"@" + write("token", text+"\n"), nil, []string{"client alice", "token: verified"}},
		"of the header": {"", []string{"Authorization: Bearer " + text}, []string{"client alice", "token: verified"}},
		"two":           {text, []string{"Authorization: Bearer " + text}, []string{"client 192.0.2.1", "token: rejected (twice)"}},
		"forged":        {sign(good, strings.Repeat("x", 32)), nil, []string{"client 192.0.2.1", "token: rejected (signature), so the request has no claims: its signature is not"}},
		"expired":       {sign(jwt.MapClaims{"sub": "alice", "exp": 1}, secret), nil, []string{"token: rejected (expired)", "expires 1970-01-01T00:00:01Z"}},
		"no token":      {"", nil, []string{"client 192.0.2.1"}},
	} {
		out, err := explain(file, c.token, c.headers...)
		require.NoError(t, err, name)
		for _, want := range c.want {
			assert.Contains(t, out, want, name)
		}
		assert.NotContains(t, out, text, name)
		assert.Equal(t, name != "no token", strings.Contains(out, "token:"), name)
	}
	without := write("without.yaml", "policies: [ { name: a, limits: [ { rate: 1/s, capacity: 1 } ] } ]\n")
	_, err := explain(without, text)
	require.ErrorContains(t, err, "has no section jwt")
	_, err = explain(file, "@"+filepath.Join(folder, "none"))
	require.ErrorContains(t, err, "-jwt: open")
	require.NoError(t, os.Remove(filepath.Join(folder, "secret")))
	_, err = explain(file, text)
	require.ErrorContains(t, err, "the keys of jwt cannot be loaded")
	_, err = explain(file, "")
	require.NoError(t, err, "without a token no keys are needed")
}

func TestExplain_showsNoSecretValue(t *testing.T) {
	_, write := folderOfFiles(t)
	key := strings.Repeat("s", 32)
	write("secret", key)
	file := write("p.yaml", `jwt: { hmac_secret_file: secret }
shared:
- { name: org, key: { from: header:X-Org, secret: true }, quota: 9/day }
policies:
- name: claim
  match: { path: /claim }
  key: { from: claim:sub, secret: true }
  limits: [ { rate: 1/s, capacity: 1 } ]
  overrides: [ { when: { "claim:sub": [other] }, limits: [ { capacity: 2 } ] } ]
- name: own
  limits: [ { name: own, rate: 1/s, capacity: 1, key: { from: header:X-API-Key, secret: true } }, { name: burst, rate: 1/s, capacity: 1 }, { use: org } ]
  overrides: [ { when: { "header:X-API-Key": [other], "header:X-Org": [other] }, limits: [ { name: burst, capacity: 2 } ] } ]
`)
	for _, claims := range []jwt.MapClaims{{"sub": "raw-value"}, {"sub": []string{"raw-value"}}} {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(key))
		require.NoError(t, err)
		for path, want := range map[string]string{"/claim?q=raw-value": "claim:sub is in the token, and secret\n", "/": "header:x-org has none of the values"} {
			var out bytes.Buffer
			e := explainFlags{file: file, client: "192.0.2.1", token: token, headers: []string{"X-API-Key: raw-value", "X-Org: raw-value"}}
			require.NoError(t, e.run(t.Context(), []string{"GET", path}, command.Streams{Out: &out, Err: &out}))
			assert.Contains(t, out.String(), want)
			assert.NotContains(t, out.String(), "raw-value")
		}
	}
	for _, target := range []string{"claim?q=raw-value", "http://x%zz/?q=raw-value", "ftp://x/?q=raw-value"} {
		e := explainFlags{file: file, client: "192.0.2.1"}
		err := e.run(t.Context(), []string{"GET", target}, command.Streams{})
		require.ErrorContains(t, err, `"`+strings.TrimSuffix(target, "?q=raw-value")+`": `)
		assert.NotContains(t, err.Error(), "raw-value")
	}
}

// An empty token is a variable that is not set: without the error, the request would be explained as one without a token.
func TestExplain_refusesAnEmptyToken(t *testing.T) {
	for _, text := range []string{"", " "} {
		flags := flag.NewFlagSet("explain", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		Explain.Define(flags)
		assert.ErrorContains(t, flags.Parse([]string{"-jwt", text}), "-jwt: is empty")
	}
}

const llm = `policies:
  - name: llm
    match: { path: /v1/** }
    cost:
      estimate: [json:/max_completion_tokens, json:/max_tokens, 1000]
      actual: usage
      include_usage: true
    limits:
      - { name: tokens, rate: 100/s, capacity: 5000 }
      - { name: calls, rate: 1/s, capacity: 10, cost: 1 }
      - { name: parallel, concurrent: 5 }
  - name: fixed
    cost: { estimate: 2, actual: { sum: [json:/a, json:/b] }, missing: 0, failed: 1 }
    limits: [ { rate: 1/s, capacity: 10, cost: 1 } ]
`

func TestValidate_showsEstimates(t *testing.T) {
	want := `POLICY  MATCH   KEY  LIMIT     RATE                 CAPACITY  COST      FULL AGAIN  AT MOST
llm     /v1/**  ip   tokens    100/s                5000      estimate  after 50s   5100 in 1s
                ip   calls     1/s                  10        1         after 10s   11 in 1s
                ip   parallel  5 at once, lease 1m  5         1         on release  5 at once
fixed   /**     ip   fixed     1/s                  10        1         after 10s   11 in 1s

llm: cost: estimate json:/max_completion_tokens, else json:/max_tokens, else 1000; actual usage; missing the estimate, failed 0, asks streams for usage
fixed: cost: estimate 2; actual json:/a + json:/b; missing 0, failed 1
`
	got := output(t, "validate", policyFile(t, llm))
	assert.Equal(t, want, got[:min(len(want), len(got))])
	assert.Contains(t, got, "warning: fixed: the actual cost changes nothing: every limit has a cost of its own\n")
	assert.NotContains(t, got, "warning: llm")
	assert.Contains(t, got, "hint: forward-auth takes the estimate under llm, fixed, and never learns the actual cost")
}

func TestExplain_estimatesByTheBody(t *testing.T) {
	file := policyFile(t, llm)
	body := filepath.Join(t.TempDir(), "body.json")
	require.NoError(t, os.WriteFile(body, []byte(`{"max_tokens": 70, "max_completion_tokens": "many"}`), 0o600))
	for given, cost := range map[string]string{"": "1000", `{"max_tokens": 7}`: "7", "@" + body: "70", "no JSON": "1000", strings.Repeat(" ", 1<<20) + `{"max_tokens": 7}`: "1000"} {
		got := output(t, "explain", "-policies", file, "-body", given, "POST", "/v1/chat")
		assert.Contains(t, got, "cost "+cost+"\n")
		assert.Contains(t, got, "The cost may be in the request's body, which -body gives: json:/max_completion_tokens, else json:/max_tokens.\n")
		assert.Contains(t, got, "This cost is an estimate. When the answer has ended, the difference to its actual cost is charged or refunded: usage.\n")
	}
	assert.Contains(t, output(t, "explain", "-policies", file, "-body", `{"max_tokens": 5001}`, "POST", "/v1/chat"), "can never pass")
	assert.Contains(t, output(t, "explain", "-policies", file, "GET", "/x"), "refunded: json:/a + json:/b.\n")
	var errs strings.Builder
	code := Explain.Execute(t.Context(), []string{"-policies", file, "-body", "@" + body + "x", "POST", "/v1/chat"}, command.Streams{Out: io.Discard, Err: &errs})
	assert.Equal(t, command.ExitFailed, code)
	assert.Contains(t, errs.String(), "body.jsonx")
}

// folderOfFiles returns a new folder, and a function that writes a file there and returns its path.
func folderOfFiles(t *testing.T) (folder string, write func(name, text string) string) {
	t.Helper()
	folder = t.TempDir()
	return folder, func(name, text string) string {
		path := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
}
