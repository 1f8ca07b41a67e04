package client_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/client"
)

func TestTakenAt_goesFromTheCheckToItsRefundAndCharge(t *testing.T) {
	sent := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		sent[r.URL.Path] = string(body)
		_, _ = io.WriteString(w, strings.Replace(allowed, `"limits"`, `"taken_at_us":1774785600000001,"limits"`, 1))
	}))
	t.Cleanup(server.Close)
	c, err := client.New(client.Config{URL: server.URL})
	require.NoError(t, err)
	t.Cleanup(c.Close)

	r, err := c.Check(t.Context(), client.Check{Key: "alice", Cost: client.Tokens(7)})
	require.NoError(t, err)
	assert.Equal(t, time.Date(2026, 3, 29, 12, 0, 0, 1000, time.UTC), r.TakenAt)
	back := client.Check{Key: "alice", Cost: client.Tokens(2), TakenAt: r.TakenAt.Add(999).Local()}
	_, err = c.Refund(t.Context(), back)
	require.NoError(t, err)
	_, err = c.Charge(t.Context(), back)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{
		"/v1/check":  `{"key":"alice","cost":7}`,
		"/v1/refund": `{"key":"alice","cost":2,"taken_at_us":1774785600000001}`,
		"/v1/charge": `{"key":"alice","cost":2,"taken_at_us":1774785600000001}`,
	}, sent)
}

func TestTakenAt_whatCannotBeMeantIsNotSent(t *testing.T) {
	s := startService(t)
	c := s.client()
	back := client.Check{Key: "a", TakenAt: time.Now()}
	_, err := c.Check(t.Context(), back)
	require.ErrorIs(t, err, client.ErrInvalid)
	require.ErrorContains(t, err, "TakenAt: only refunds and charges have it")
	answers, err := c.CheckMany(t.Context(), []client.Check{back})
	require.NoError(t, err)
	require.ErrorIs(t, answers[0].Err, client.ErrInvalid)
	back.TakenAt = time.Unix(0, 0)
	_, err = c.Refund(t.Context(), back)
	require.ErrorIs(t, err, client.ErrInvalid)
	require.ErrorContains(t, err, "TakenAt: ")
	assert.Zero(t, s.calls.Load())
}
