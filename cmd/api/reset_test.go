package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConfirmed_takesNothingButAYes(t *testing.T) {
	for answer, want := range map[string]bool{
		"y\n": true, "Yes\n": true, " YES ": true, "n\n": false, "\n": false, "": false, "yeah\n": false, "no\ny\n": false,
	} {
		assert.Equal(t, want, confirmed(strings.NewReader(answer), io.Discard, "?"), "%q", answer)
	}
}

func TestIsTerminal_noFileIsOne(t *testing.T) {
	assert.False(t, isTerminal(strings.NewReader("y\n")))
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	assert.False(t, isTerminal(null))
	require.NoError(t, null.Close())
}

func TestNewAdminClient_addresses(t *testing.T) {
	setenv(t, nil)
	for addr, want := range map[string]string{
		"": "http://127.0.0.1:3001", ":3001": "http://127.0.0.1:3001", "ops.example:80": "http://ops.example:80",
		"https://ops.example/": "https://ops.example",
	} {
		c, err := newAdminClient(addr)
		require.NoError(t, err, addr)
		assert.Equal(t, want, c.base)
	}
	for _, addr := range []string{"ftp://ops.example", "http://", "http://a b"} {
		_, err := newAdminClient(addr)
		require.ErrorContains(t, err, "must be host:port or an http URL", addr)
	}
	setenv(t, map[string]string{"VELOCITY_ADMIN_ADDR": "0.0.0.0:4001", "VELOCITY_ADMIN_TOKEN": " secret "})
	c, err := newAdminClient("")
	require.NoError(t, err)
	assert.Equal(t, "http://127.0.0.1:4001", c.base)
	assert.Equal(t, "secret", c.token)
}

func TestHistogram_atMost(t *testing.T) {
	h := &histogram{Bounds: []float64{.001, .01}, Counts: []uint64{90, 9, 1}}
	assert.Equal(t, "<= 1ms", h.atMost(.5))
	assert.Equal(t, "<= 10ms", h.atMost(.99))
	assert.Equal(t, "> 10ms", h.atMost(.999))
	assert.Equal(t, "-", (&histogram{Bounds: []float64{1}, Counts: []uint64{0, 0}}).atMost(.5))
	assert.Equal(t, "-", (*histogram)(nil).atMost(.5))
	assert.Equal(t, "-", (&histogram{Counts: []uint64{1}}).atMost(.5), "an answer without bounds")
}
