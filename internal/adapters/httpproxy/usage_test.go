package httpproxy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

const tokens60 = `{"usage":{"total_tokens":60}}`

// takes is a settlements of a policy with that cost.
func takes(cost policy.Cost) *settlements {
	return &settlements{
		policy:   policy.Policy{Cost: cost},
		decision: decision.Decision{Outcome: decision.OutcomeAllowed, Taken: true},
	}
}

// reporting serves, by that policy, in front of an upstream that says in its answer what it got, and that it used 60 tokens.
func reporting(t *testing.T, l *settlements) (addr string) {
	t.Helper()
	url := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("X-Got", fmt.Sprintf("%d %x %v", r.ContentLength, sha256.Sum256(body), err))
		w.Header().Set("X-Accepts", strings.Join(r.Header["Accept-Encoding"], "; "))
		w.Header().Set("X-Tokens", "70")
		if r.URL.Path == "/gzip" {
			w.Header().Set("Content-Encoding", "gzip")
		}
		_, _ = io.WriteString(w, tokens60)
	})
	cfg := proxyConfig(url)
	return start(t, cfg, l)
}

// TestUsage_theUpstreamIsAskedForAnAnswerThatCanBeRead: only where the answer's body reports the cost.
func TestUsage_theUpstreamIsAskedForAnAnswerThatCanBeRead(t *testing.T) {
	at, err := jsonpointer.Parse("/usage/total_tokens")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		actual  policy.Actual
		path    string
		accepts string
		want    []string
	}{
		"usage":              {policy.Actual{Usage: true}, "/", "identity", []string{"refund 40"}},
		"a pointer":          {policy.Actual{Pointers: []jsonpointer.Pointer{at}}, "/", "identity", []string{"refund 40"}},
		"compressed anyway":  {policy.Actual{Usage: true}, "/gzip", "identity", nil},
		"a header":           {policy.Actual{Header: "x-tokens"}, "/", "gzip", []string{"refund 30"}},
		"a header, any form": {policy.Actual{Header: "x-tokens"}, "/gzip", "gzip", []string{"refund 30"}},
		"known before":       {policy.Actual{}, "/", "gzip", nil},
	} {
		l := takes(policy.Cost{Actual: c.actual})
		got := call(t, "GET", "http://"+reporting(t, l)+c.path, "", "Accept-Encoding", "gzip")
		assert.Equal(t, c.accepts, got.header.Get("X-Accepts"), name)
		assert.True(t, bytes.Equal([]byte(tokens60), []byte(got.body)), "%s: %s", name, got.body)
		l.happened(t, name, c.want...)
	}
}

// TestUsage_streamsAreAskedForIt: a request for a stream is changed, with its length, and every other passes as it was sent.
func TestUsage_streamsAreAskedForIt(t *testing.T) {
	const asked = `{"stream_options":{"include_usage":true},"stream":true}`
	large := `{"stream":true,"input":"` + strings.Repeat("x", policy.MaxCostBody) + `"}`
	for name, c := range map[string]struct {
		body    string
		changed bool
	}{
		"a stream":     {`{"stream":true}`, true},
		"no stream":    {`{"stream":false}`, false},
		"no JSON":      {`stream`, false},
		"too large":    {large, false},
		"asks already": {asked, false},
		"no body":      {"", false},
	} {
		for _, chunked := range []bool{false, true} {
			for _, include := range []bool{false, true} {
				l := takes(policy.Cost{Actual: policy.Actual{Usage: true}, IncludeUsage: include})
				req, err := http.NewRequest(http.MethodPost, "http://"+reporting(t, l)+"/", strings.NewReader(c.body))
				require.NoError(t, err)
				want := c.body
				if c.changed && include {
					want = asked
				}
				length := len(want)
				if chunked && c.body != "" {
					req.ContentLength, length = -1, -1
				}
				res, err := http.DefaultTransport.RoundTrip(req)
				require.NoError(t, err)
				got := read(t, res)
				assert.Equal(t, fmt.Sprintf("%d %x <nil>", length, sha256.Sum256([]byte(want))), got.header.Get("X-Got"), "%s, chunked %t, include_usage %t", name, chunked, include)
				l.happened(t, name, "refund 40")
			}
		}
	}
}

// TestUsage_halfARequestIsNotForwarded where it has to be read as a whole. The client broke it off, so it costs what was taken.
func TestUsage_halfARequestIsNotForwarded(t *testing.T) {
	l := takes(policy.Cost{Actual: policy.Actual{Usage: true}, IncludeUsage: true})
	addr := start(t, proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) { t.Error("it was forwarded") })), l)
	got := exchange(t, addr, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", 1)[0]
	assert.Equal(t, 400, got.status)
	l.happened(t, "half a request")
}
