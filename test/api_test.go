package test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

func TestDecisionAPI_checkInspectAndReset(t *testing.T) {
	server := redistest.Start(t)
	p := harness.Start(t, harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_RATE": "10/h", "VELOCITY_CLIENT_KEY": "header:X-Client-ID",
		"VELOCITY_API_TOKEN": "api-token", "VELOCITY_ADMIN_TOKEN": "admin-token", "VELOCITY_TAKE_TIMEOUT": "10s",
	})
	const user, operator = "Authorization: Bearer api-token", "Authorization: Bearer admin-token"
	check := func(body string, headers ...string) harness.Response {
		return p.MustDo(http.MethodPost, p.URL+"/v1/check", body, headers...)
	}
	bucket := p.Admin + "/v1/buckets/default/alice"

	assert.Equal(t, http.StatusUnauthorized, check(`{"key":"alice"}`).Status)
	assert.Equal(t, http.StatusUnauthorized, check(`{"key":"alice"}`, operator).Status, "the other plane's token")

	a := check(`{"key":"alice","cost":7}`, user)
	require.Equal(t, http.StatusOK, a.Status, a.Body)
	got := a.JSON(t)
	assert.Equal(t, true, got["allowed"])
	assert.InDelta(t, 3, got["remaining"], 0)
	assert.Equal(t, "redis", got["store"])

	a = check(`{"key":"alice","cost":7}`, user)
	require.Equal(t, http.StatusOK, a.Status, "a denial is an answer")
	assert.Equal(t, false, a.JSON(t)["allowed"])

	// The middleware takes from the same bucket.
	assert.Equal(t, "2", p.Resource("X-Client-ID: alice").Header.Get("X-RateLimit-Remaining"))

	assert.Equal(t, http.StatusUnauthorized, p.MustDo(http.MethodGet, bucket, "").Status)
	a = p.MustDo(http.MethodGet, bucket, "", operator)
	require.Equal(t, http.StatusOK, a.Status, a.Body)
	assert.Contains(t, a.Body, `"tokens":2.`)

	assert.Equal(t, http.StatusUnauthorized, p.MustDo(http.MethodDelete, bucket, "", user).Status)
	a = p.MustDo(http.MethodDelete, bucket, "", operator)
	require.Less(t, a.Status, 300, a.Body)
	assert.Equal(t, "9", p.Resource("X-Client-ID: alice").Header.Get("X-RateLimit-Remaining"), "full, less one")

	refund := p.MustDo(http.MethodPost, p.URL+"/v1/refund", `{"key":"alice","cost":1}`, user)
	require.Equal(t, http.StatusOK, refund.Status, refund.Body)
	assert.InDelta(t, 10, refund.JSON(t)["remaining"], 0)
	charge := p.MustDo(http.MethodPost, p.URL+"/v1/charge", `{"key":"alice","cost":15}`, user)
	require.Equal(t, http.StatusOK, charge.Status, charge.Body)
	assert.Equal(t, http.StatusTooManyRequests, p.Resource("X-Client-ID: alice").Status, "in debt")
	p.Stop()
}
