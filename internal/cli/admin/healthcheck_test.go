package admin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCheckHealth_statuses(t *testing.T) {
	for status, want := range map[int]string{
		http.StatusOK:                 "<nil>",
		http.StatusServiceUnavailable: "not healthy: /healthz answered 503 Service Unavailable",
		http.StatusNotFound:           "not healthy: /healthz answered 404 Not Found",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			assert.Equal(t, "/healthz", r.URL.Path)
			w.WriteHeader(status)
		}))
		assert.Equal(t, want, fmt.Sprint(checkHealth(t.Context(), strings.TrimPrefix(server.URL, "http://"))))
		server.Close()
	}
}

func TestCheckHealth_nothingListens(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	addr := strings.TrimPrefix(server.URL, "http://")
	server.Close()
	require.ErrorContains(t, checkHealth(t.Context(), addr), "not healthy: ")
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
