package httpfiber_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

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

// A large body is not read, nor is there memory for it, before its caller is known.
func TestDecisionAPI_aLargeBodyNeedsATokenFirst(t *testing.T) {
	const large, right = 1 << 20, "Authorization: Bearer s3cret-token\r\n"
	cfg := testConfig()
	cfg.APIToken = "s3cret-token"
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	body := `{"checks":[]}` + strings.Repeat(" ", large-len(`{"checks":[]}`))
	length := fmt.Sprintf("Content-Length: %d\r\n\r\n", large)
	chunked := func(size int) string {
		return fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", size, body[:size])
	}
	for _, path := range []string{"/v1/checks", "/v1/release", "/v1/./%72enew?a=b"} {
		for name, c := range map[string]struct {
			rest   string
			status int
		}{
			"no token":              {length, 401}, // no body follows
			"wrong token":           {"Authorization: Bearer s3cret-tokem\r\n" + length, 401},
			"two":                   {right + right + length, 401},
			"no token, asked first": {"Expect: 100-continue\r\n" + length, 401},
			"asked first":           {right + "Expect: 100-continue\r\n" + length, 100},
			"no token, chunked":     {chunked(64<<10 + 1), 413},
			"no token, small":       {chunked(64 << 10), 401},
		} {
			conn := dial(t, addr)
			go func() { // the server may answer, and close, before all is sent
				_, _ = io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+c.rest)
			}()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err, "%s %s", path, name)
			assert.Equal(t, c.status, res.StatusCode, "%s %s", path, name)
			if c.status == 401 {
				assert.Equal(t, "Bearer", res.Header.Get("WWW-Authenticate"))
				read(t, res).problem(t)
			}
		}
	}
	got := call(t, "POST", "http://"+addr+"/v1/checks", body, "Content-Type", "application/json", "Authorization", "Bearer s3cret-token")
	assert.Equal(t, 200, got.status)
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
var protectedPaths = []string{"/v1/check", "/v1/checks", "/v1/refund", "/v1/charge", "/v1/release", "/v1/renew"}

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
