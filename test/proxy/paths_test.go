package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/test/harness"
)

// In front of an upstream, no path is taken from it. Only with a token are the routes of the decision API Velocity's.
func TestPaths_allAreTheUpstreams(t *testing.T) {
	t.Parallel()
	const token = "0123456789abcdef"
	paths := []string{
		"/", "/api/resource", "/openapi.yaml", "/v1/forward-auth", "/v1/forward-auth/x", "/healthz", "/metrics", "/v1/policies",
		"/v1/check/", "/v1/checks/x", "/V1/check", "/v1/checksum",
	}
	routes := []string{"/v1/check", "/v1/checks", "/v1/refund", "/v1/charge", "/v1/release", "/v1/renew"}
	for _, with := range []string{"", token} {
		eachClient(t, func(t *testing.T, client protocol) {
			s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = fmt.Fprint(w, "upstream ", r.RequestURI)
			}), harness.Settings{"VELOCITY_API_TOKEN": with})
			for _, path := range paths {
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					assert.Equal(t, "upstream "+path, text(t, s.do(t, method, path, nil)), "%s %s", method, path)
				}
			}
			for _, path := range routes {
				res := s.do(t, http.MethodPost, path, strings.NewReader(`{"key":"a","cost":1}`), "Content-Type", "application/json")
				body := text(t, res)
				if with == "" {
					assert.Equal(t, "upstream "+path, body)
					continue
				}
				assert.Equal(t, http.StatusUnauthorized, res.StatusCode, path)
				assert.NotContains(t, body, "upstream", path)
			}
			if with == "" {
				return
			}
			api := []string{"Content-Type", "application/json", "Authorization", "Bearer " + token}
			res := s.do(t, http.MethodPost, "/v1//%63heck", strings.NewReader(`{"key":"a"}`), api...)
			assert.Equal(t, http.StatusOK, res.StatusCode)
			assert.Contains(t, text(t, res), `"allowed":true`)
			body := `{"key":"a"}`
			for size, status := range map[int]int{64 << 10: http.StatusOK, 64<<10 + 1: http.StatusRequestEntityTooLarge, 8 << 20: http.StatusRequestEntityTooLarge} {
				all := body + strings.Repeat(" ", size-len(body))
				res := s.do(t, http.MethodPost, "/v1/check", strings.NewReader(all), api...)
				assert.Equal(t, status, res.StatusCode, "%d bytes", size)
				chunked := struct{ io.Reader }{strings.NewReader(all)}
				res = s.do(t, http.MethodPost, "/v1/check", chunked, api...)
				assert.Equal(t, status, res.StatusCode, "%d bytes, chunked", size)
			}
		})
	}
}

// A policy applies to the path that it names, with and without a slash at its end. Case, parameters and spaces make another path,
// which the upstream gets as it is.
func TestPaths_otherSpellingsAreOtherPaths(t *testing.T) {
	t.Parallel()
	file := harness.WriteFile(t, "policies.yaml", `
policies:
  - name: login
    match: { methods: [POST], path: /login }
    limits: [ { rate: 1/h, capacity: 1 } ]
`)
	eachClient(t, func(t *testing.T, client protocol) {
		s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(w, r.Method, " ", r.RequestURI)
		}), harness.Settings{"VELOCITY_POLICY_FILE": file})
		ask := func(method, path string) (int, string) {
			res := s.do(t, method, path, nil)
			return res.StatusCode, text(t, res)
		}
		status, _ := ask("POST", "/login")
		assert.Equal(t, http.StatusOK, status)
		for _, path := range []string{"/login", "//login", "/./login", "/x/../login", "/%6cogin", "/login?a", "/login?", "/login/"} {
			status, _ := ask("POST", path)
			assert.Equal(t, http.StatusTooManyRequests, status, path)
		}
		for _, path := range []string{"/LOGIN", "/login;x=1", "/login%20", "/login%09", "/log-in"} {
			status, body := ask("POST", path)
			assert.Equal(t, http.StatusOK, status, path)
			assert.Equal(t, "POST "+path, body)
		}
		for _, method := range []string{"Post", "post", "pOST", "POSt"} { // some servers take it for POST
			status, body := ask(method, "/login")
			assert.Contains(t, []int{http.StatusBadRequest, http.StatusTooManyRequests}, status, method)
			assert.NotContains(t, body, "/login?", method)
		}
		status, body := ask("POSTS", "/login")
		assert.Equal(t, http.StatusOK, status, "another method")
		assert.Equal(t, "POSTS /login", body)
	})
}

// Any method passes, but those that speak of the way to the upstream.
func TestPaths_anyMethodPasses(t *testing.T) {
	t.Parallel()
	eachClient(t, func(t *testing.T, client protocol) {
		s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Method", r.Method) }))
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "BREW", "M-SEARCH"} {
			res := s.do(t, method, "/x", nil)
			assert.Equal(t, http.StatusOK, res.StatusCode, method)
			assert.Equal(t, method, res.Header.Get("X-Method"))
		}
		assert.Equal(t, http.StatusMethodNotAllowed, s.do(t, "TRACE", "/x", nil).StatusCode)
	})
}
