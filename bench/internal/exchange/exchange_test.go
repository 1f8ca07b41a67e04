package exchange_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/exchange"
	"github.com/velocity-limiter/velocity/bench/internal/httpload"
	"github.com/velocity-limiter/velocity/bench/internal/load"
)

// counting names the clients c0, c1 and so on.
func counting() exchange.Client {
	n := -1
	return func(*rand.Rand) string { n++; return "c" + strconv.Itoa(n) }
}

// sent parses a request as a server would, and requires that nothing follows it.
func sent(t *testing.T, x httpload.Exchange) (*http.Request, string) {
	t.Helper()
	reader := bufio.NewReader(bytes.NewReader(x.AppendRequest(nil, nil)))
	r, err := http.ReadRequest(reader)
	require.NoError(t, err)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	assert.Zero(t, reader.Buffered(), "nothing follows the request")
	return r, string(body)
}

func TestGet_names(t *testing.T) {
	x := exchange.Get("/api/resource", counting())
	for _, want := range []string{"c0", "c1"} {
		r, _ := sent(t, x)
		assert.Equal(t, "/api/resource", r.URL.Path)
		assert.Equal(t, want, r.Header.Get("X-Client-ID"))
	}
}

func TestGetOfTenant_namesClientAndTenant(t *testing.T) {
	x := exchange.GetOfTenant("/api/resource", counting(), func(client string) string { return "tenant of " + client })
	for _, client := range []string{"c0", "c1"} {
		r, _ := sent(t, x)
		assert.Equal(t, "/api/resource", r.URL.Path)
		assert.Equal(t, client, r.Header.Get("X-Client-ID"))
		assert.Equal(t, "tenant of "+client, r.Header.Get("X-Tenant"))
	}
}

func TestCheck_isWellFormed(t *testing.T) {
	r, body := sent(t, exchange.Check(counting()))
	assert.Equal(t, "POST", r.Method)
	assert.Equal(t, "/v1/check", r.URL.Path)
	assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
	assert.JSONEq(t, `{"key":"c0"}`, body)
}

func TestChecks_asksForEachOnce(t *testing.T) {
	_, body := sent(t, exchange.Checks(counting(), 100))
	var got struct{ Checks []struct{ Key string } }
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	require.Len(t, got.Checks, 100)
	assert.Equal(t, "c99", got.Checks[99].Key)
}

func TestClassify_ofAStatus(t *testing.T) {
	x := exchange.Get("/", counting())
	cases := []struct {
		name   string
		answer httpload.Answer
		want   load.Outcome
	}{
		{"allowed", httpload.Answer{Status: 200}, load.Outcome{Decisions: 1, Allowed: 1}},
		{"denied", httpload.Answer{Status: 429}, load.Outcome{Decisions: 1}},
		{
			name:   "by a fallback",
			answer: httpload.Answer{Status: 200, Head: []byte("HTTP/1.1 200 OK\r\nX-Ratelimit-Store: fallback")},
			want:   load.Outcome{Decisions: 1, Allowed: 1, Degraded: 1},
		},
	}
	for _, c := range cases {
		got, err := x.Classify(c.answer)
		require.NoError(t, err, c.name)
		assert.Equal(t, c.want, got, c.name)
	}
	_, err := x.Classify(httpload.Answer{Status: 503, Body: []byte("no shard answers")})
	assert.ErrorContains(t, err, "no shard answers")
}

func TestClassify_ofResults(t *testing.T) {
	const (
		allowed  = `{"allowed":true,"policy":"default","store":"redis","limits":[{"name":"default","allowed":true}]}`
		denied   = `{"allowed":false,"policy":"default","store":"redis","limits":[{"name":"default","allowed":false}]}`
		fallback = `{"allowed":true,"policy":"default","store":"fallback","limits":[{"name":"default","allowed":true}]}`
		problem  = `{"type":"about:blank","title":"Unprocessable Content","status":422}`
	)
	x := exchange.Checks(counting(), 3)
	classify := func(status int, results ...string) (load.Outcome, error) {
		return x.Classify(httpload.Answer{Status: status, Body: []byte(`{"results":[` + strings.Join(results, ",") + `]}`)})
	}
	got, err := classify(200, allowed, denied, fallback)
	require.NoError(t, err)
	assert.Equal(t, load.Outcome{Decisions: 3, Allowed: 2, Degraded: 1}, got)

	_, err = classify(200, allowed, problem, denied)
	assert.ErrorContains(t, err, "2 results instead of 3")
	_, err = classify(500, allowed, allowed, allowed)
	assert.Error(t, err)
}
