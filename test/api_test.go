package test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

func TestDecisionAPI_checkInspectAndReset(t *testing.T) {
	server := redistest.Start(t)
	p := start(t, settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_RATE": "10/h", "VELOCITY_CLIENT_KEY": "header:X-Client-ID",
		"VELOCITY_API_TOKEN": "api-token", "VELOCITY_ADMIN_TOKEN": "admin-token", "VELOCITY_TAKE_TIMEOUT": "10s",
	})
	const user, operator = "Authorization: Bearer api-token", "Authorization: Bearer admin-token"
	check := func(body string, headers ...string) answer {
		return p.mustAsk(http.MethodPost, p.url+"/v1/check", body, headers...)
	}
	bucket := p.admin + "/v1/buckets/default/alice"

	assert.Equal(t, http.StatusUnauthorized, check(`{"key":"alice"}`).status)
	assert.Equal(t, http.StatusUnauthorized, check(`{"key":"alice"}`, operator).status, "the other plane's token")

	a := check(`{"key":"alice","cost":7}`, user)
	require.Equal(t, http.StatusOK, a.status, a.body)
	got := a.json(t)
	assert.Equal(t, true, got["allowed"])
	assert.InDelta(t, 3, got["remaining"], 0)
	assert.Equal(t, "redis", got["store"])

	a = check(`{"key":"alice","cost":7}`, user)
	require.Equal(t, http.StatusOK, a.status, "a denial is an answer")
	assert.Equal(t, false, a.json(t)["allowed"])

	// The header-driven door counts in the same bucket.
	assert.Equal(t, "2", p.resource("X-Client-ID: alice").header.Get("X-RateLimit-Remaining"))

	assert.Equal(t, http.StatusUnauthorized, p.mustAsk(http.MethodGet, bucket, "").status)
	a = p.mustAsk(http.MethodGet, bucket, "", operator)
	require.Equal(t, http.StatusOK, a.status, a.body)
	assert.Contains(t, a.body, `"tokens":2.`)

	assert.Equal(t, http.StatusUnauthorized, p.mustAsk(http.MethodDelete, bucket, "", user).status)
	a = p.mustAsk(http.MethodDelete, bucket, "", operator)
	require.Less(t, a.status, 300, a.body)
	assert.Equal(t, "9", p.resource("X-Client-ID: alice").header.Get("X-RateLimit-Remaining"), "full, less one")

	refund := p.mustAsk(http.MethodPost, p.url+"/v1/refund", `{"key":"alice","cost":1}`, user)
	require.Equal(t, http.StatusOK, refund.status, refund.body)
	assert.InDelta(t, 10, refund.json(t)["remaining"], 0)
	charge := p.mustAsk(http.MethodPost, p.url+"/v1/charge", `{"key":"alice","cost":15}`, user)
	require.Equal(t, http.StatusOK, charge.status, charge.body)
	assert.Equal(t, http.StatusTooManyRequests, p.resource("X-Client-ID: alice").status, "in debt")
	p.stop()
}
