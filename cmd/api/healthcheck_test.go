package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestHealthcheck_codes(t *testing.T) {
	tests := []struct {
		status, want int
	}{
		{http.StatusOK, exitOK},
		{http.StatusServiceUnavailable, exitFailed},
		{http.StatusNotFound, exitFailed},
	}
	for _, tt := range tests {
		t.Run(http.StatusText(tt.status), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, "/healthz", r.URL.Path)
				w.WriteHeader(tt.status)
			}))
			defer server.Close()
			addr := strings.TrimPrefix(server.URL, "http://")
			assert.Equal(t, tt.want, healthcheck(t.Context(), addr, io.Discard))
		})
	}
}

func TestHealthcheck_nobodyThere(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	addr := strings.TrimPrefix(server.URL, "http://")
	server.Close()
	var stderr strings.Builder
	assert.Equal(t, exitFailed, healthcheck(t.Context(), addr, &stderr))
	assert.Contains(t, stderr.String(), "not healthy")
}

func TestDialable(t *testing.T) {
	tests := map[string]string{
		":3001":             "127.0.0.1:3001",
		"0.0.0.0:3001":      "127.0.0.1:3001",
		"[::]:3001":         "[::1]:3001",
		"127.0.0.1:3001":    "127.0.0.1:3001",
		"[::1]:3001":        "[::1]:3001",
		"localhost:3001":    "localhost:3001",
		"10.1.2.3:3001":     "10.1.2.3:3001",
		"admin.example:301": "admin.example:301",
	}
	for addr, want := range tests {
		assert.Equal(t, want, dialable(addr), addr)
	}
}
