package test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// signed returns a token of HS256, without exp unless the claims have it.
func signed(t *testing.T, secret string, claims jwt.MapClaims) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
	require.NoError(t, err)
	return text
}

// byClaim is a policy file in which each subject has three tokens. rules are the fields of jwt.
func byClaim(rules string) string {
	return fmt.Sprintf("jwt: { %s }\npolicies: [ { name: api, key: claim:sub, limits: [ { rate: 1/h, capacity: 3 } ] } ]\n", rules)
}

const tokenSecret = "a secret of the tests, of 32 bytes"

// TestTokens_clientsAreCountedByTheirClaims over every entry point that sees the client's header.
func TestTokens_clientsAreCountedByTheirClaims(t *testing.T) {
	p := protect(t, byClaim("hmac_secret_file: "+harness.WriteFile(t, "secret", tokenSecret)))
	plain := harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": p.file, "VELOCITY_REDIS_ADDRS": strings.Join(p.addrs, ","), "VELOCITY_TRUSTED_PROXIES": "loopback",
	})
	alice, bob := signed(t, tokenSecret, jwt.MapClaims{"sub": "alice"}), signed(t, tokenSecret, jwt.MapClaims{"sub": "bob"})
	left := func(name string, got harness.Response) string {
		require.Equal(t, http.StatusOK, got.Status, "%s: %s", name, got.Body)
		return got.Header.Get("X-RateLimit-Remaining")
	}
	assert.Equal(t, "2", left("proxy", p.get("/", "Authorization: Bearer "+alice)))
	assert.Equal(t, "1", left("resource", plain.Resource("Authorization: "+alice)))
	assert.Equal(t, "0", left("forward-auth", plain.MustDo("GET", plain.URL+"/v1/forward-auth/x", "", "Authorization: Bearer "+alice, "X-Forwarded-For: 192.0.2.1")))
	denied := p.get("/", "Authorization: bearer "+alice)
	assert.Equal(t, http.StatusTooManyRequests, denied.Status)
	assert.Equal(t, "2", left("another subject", p.get("/", "Authorization: Bearer "+bob)))

	forged := signed(t, strings.Repeat("x", 32), jwt.MapClaims{"sub": "bob"})
	assert.Equal(t, "2", left("forged", p.get("/", "Authorization: Bearer "+forged, "X-Forwarded-For: 192.0.2.9")))
	assert.Equal(t, "1", left("without a token", p.get("/", "X-Forwarded-For: 192.0.2.9")), "both count by address")
	assert.InDelta(t, 1, p.Metric("velocity_tokens_rejected_total", `reason="signature"`), 0)
	assert.InDelta(t, 1, p.Metric("velocity_tokens_rejected_total"), 0, "a token is counted once")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL+"/", nil)
	require.NoError(t, err)
	req.Header["Authorization"] = []string{"Bearer " + bob, "Bearer " + bob}
	two, err := harness.Send(p.Client, req, "X-Forwarded-For: 192.0.2.9")
	require.NoError(t, err)
	assert.Equal(t, "0", left("two headers", two))
	assert.InDelta(t, 1, p.Metric("velocity_tokens_rejected_total", `reason="twice"`), 0)
	asked := p.check(`{"policy": "api", "attributes": {"claim:sub": "bob"}}`)
	require.Equal(t, http.StatusOK, asked.Status, asked.Body)
	assert.Contains(t, asked.Body, `"remaining":1`, "the decision API's callers name claims")
	assert.Contains(t, p.keys(), "velocity:{api:j:sub=bob}")
	inspected := p.MustDo("GET", p.Admin+"/v1/buckets/api/bob", "")
	assert.Equal(t, http.StatusOK, inspected.Status, inspected.Body)
	byAddress := p.MustDo("GET", p.Admin+"/v1/buckets/api/192.0.2.9?source=ip", "")
	assert.Equal(t, http.StatusOK, byAddress.Status, byAddress.Body)

	p.Stop()
	plain.Stop()
	for _, token := range []string{alice, bob, forged} {
		for _, part := range strings.Split(token, ".")[1:] {
			assert.NotContains(t, p.Stdout.String()+p.Stderr.String()+plain.Stdout.String()+plain.Stderr.String(), part)
		}
	}
}

func TestTokens_rulesComeIntoForceWithAReload(t *testing.T) {
	path := harness.WriteFile(t, "policies.yaml", "")
	secret := filepath.Join(filepath.Dir(path), "secret")
	require.NoError(t, os.WriteFile(secret, []byte(tokenSecret+"\n"), 0o600))
	require.NoError(t, os.WriteFile(path, []byte(byClaim("hmac_secret_file: secret")), 0o600))
	p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": path})
	token := "Authorization: Bearer " + signed(t, tokenSecret, jwt.MapClaims{"sub": "alice", "iss": "id"})
	require.Equal(t, "2", p.Resource(token).Header.Get("X-RateLimit-Remaining"))
	reload := func(rules string) harness.Response {
		require.NoError(t, os.WriteFile(path, []byte(byClaim(rules)), 0o600))
		return p.MustDo(http.MethodPost, p.Admin+"/v1/reload", "")
	}
	require.Equal(t, http.StatusOK, reload("hmac_secret_file: secret, issuer: other").Status)
	require.Equal(t, "2", p.Resource(token).Header.Get("X-RateLimit-Remaining"), "by address")
	assert.InDelta(t, 1, p.Metric("velocity_tokens_rejected_total", `reason="issuer"`), 0)
	refused := reload("hmac_secret_file: none, issuer: id")
	assert.Equal(t, http.StatusUnprocessableEntity, refused.Status, refused.Body)
	require.Equal(t, "1", p.Resource(token).Header.Get("X-RateLimit-Remaining"), "the rules before are in force")
	require.Equal(t, http.StatusOK, reload("hmac_secret_file: secret, issuer: id").Status)
	require.Equal(t, "1", p.Resource(token).Header.Get("X-RateLimit-Remaining"), "by claim")
	p.Stop()
}

func TestTokens_aMissingFileStopsTheStart(t *testing.T) {
	p := harness.Launch(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "p.yaml", byClaim("jwks_file: none.json"))})
	assert.Equal(t, 1, p.Wait())
	assert.Contains(t, p.Stderr.String(), "the keys of jwt cannot be loaded: ")
	assert.Contains(t, p.Stderr.String(), "none.json: no such file or directory")
}

func TestTokens_aNodeWithoutKeysIsReadyAfterAWhile(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a server that does not answer
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	began := time.Now()
	p := harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "p.yaml", byClaim("jwks_url: \"http://"+ln.Addr().String()+"/keys\"")),
	})
	ready := p.MustDo("GET", p.Admin+"/readyz", "")
	if time.Since(began) < 5*time.Second {
		assert.Equal(t, http.StatusServiceUnavailable, ready.Status, ready.Body)
		assert.Contains(t, ready.Body, "the keys of tokens are not loaded yet")
	}
	require.Equal(t, "2", p.Resource("Authorization: Bearer a.b.c").Header.Get("X-RateLimit-Remaining"), "it decides meanwhile")
	require.Eventually(t, func() bool { return p.MustDo("GET", p.Admin+"/readyz", "").Status == http.StatusOK }, harness.Timeout, harness.Interval)
	assert.GreaterOrEqual(t, time.Since(began), 9*time.Second)
	assert.Contains(t, p.MustDo("GET", p.Admin+"/readyz", "").Body, `"token_keys":"missing"`)
	p.Stop()
}
