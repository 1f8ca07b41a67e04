package test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/measure"
)

// metric adds up the samples of a metric whose labels contain each of these texts.
func (p *process) metric(name string, labels ...string) float64 {
	p.t.Helper()
	a := p.mustAsk(http.MethodGet, p.admin+"/metrics", "")
	require.Equal(p.t, http.StatusOK, a.status, a.body)
	total := 0.0
	for lines := bufio.NewScanner(strings.NewReader(a.body)); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest[0] != '{' && rest[0] != ' ' || !containsAll(rest, labels) {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		require.NoError(p.t, err, lines.Text())
		total += v
	}
	return total
}

func containsAll(s string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(s, part) {
			return false
		}
	}
	return true
}

func TestMetrics_countEachDecision(t *testing.T) {
	p := start(t, settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "3"})
	for range 5 {
		p.resource()
	}
	for range 2 {
		p.mustAsk(http.MethodPost, p.url+"/v1/check", `{"key":"alice"}`)
	}
	p.mustAsk(http.MethodPost, p.url+"/v1/check", `{"key":"alice","cost":0}`)
	assert.InDelta(t, 5, p.metric("velocity_decisions_total", `outcome="allowed"`, `policy="default"`, `store="memory"`), 0)
	assert.InDelta(t, 2, p.metric("velocity_decisions_total", `outcome="denied"`), 0)
	assert.InDelta(t, 7, p.metric("velocity_decision_duration_seconds_count"), 0)
	assert.InDelta(t, 2, p.metric("velocity_memory_buckets", `store="memory"`), 0)
	assert.InDelta(t, 1, p.metric("velocity_build_info", `version="v0.0.0-test"`), 0)
	p.stop()
}

func TestMetrics_countWhatTheUpstreamAnswers(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		w.WriteHeader(status)
	}))
	p := start(t, settings{"VELOCITY_UPSTREAM_URL": upstream.URL, "VELOCITY_CAPACITY": "100"})
	for _, path := range []string{"/200", "/204", "/404", "/503"} {
		p.mustAsk(http.MethodGet, p.url+path, "")
	}
	upstream.Close()
	assert.Equal(t, http.StatusBadGateway, p.mustAsk(http.MethodGet, p.url+"/200", "").status)
	for class, want := range map[string]float64{"2xx": 2, "3xx": 0, "4xx": 1, "5xx": 1, "none": 1} {
		assert.InDelta(t, want, p.metric("velocity_upstream_answers_total", `class="`+class+`"`), 0, class)
	}
	assert.InDelta(t, 4, p.metric("velocity_upstream_duration_seconds_count"), 0)
	p.stop()
}

func TestMetrics_nameTheRulesOfEnvoysFiles(t *testing.T) {
	p, e := startEnvoyDoor(t, settings{"VELOCITY_ENVOY_CONFIG": write(t, "rules.yaml", `
domain: edge
descriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 1}}]
`)})
	e.mustAsk("edge", "user=alice")
	e.mustAsk("edge", "user=bob")
	e.mustAsk("edge", "user=bob")
	assert.InDelta(t, 2, p.metric("velocity_decisions_total", `outcome="allowed"`, `policy="envoy-edge-user"`), 0)
	assert.InDelta(t, 1, p.metric("velocity_decisions_total", `outcome="denied"`, `policy="envoy-edge-user"`), 0)
	assert.Zero(t, p.metric("velocity_decisions_total", "alice"))
}

func TestMetricsAndProfiles_areBehindTheToken(t *testing.T) {
	p := start(t, settings{"VELOCITY_ADMIN_TOKEN": "secret"})
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap"} {
		assert.Equal(t, http.StatusUnauthorized, p.mustAsk(http.MethodGet, p.admin+path, "").status, path)
		a := p.mustAsk(http.MethodGet, p.admin+path, "", "Authorization: Bearer secret")
		assert.Equal(t, http.StatusOK, a.status, path)
	}
	p.stop()
}

func TestMetrics_stayShortUnderManyClients(t *testing.T) {
	clients, each := 200_000, 1000
	if len(raceFlags) > 0 { // each takes tenfold the time there, and what is looked for here is no race
		clients /= 10
	}
	p := start(t, settings{"VELOCITY_LOG_DECISIONS": "none", "VELOCITY_CLIENT_KEY": "header:X-Client-ID"})
	for from := 0; from < clients; from += each {
		var b strings.Builder
		for i := range each {
			fmt.Fprintf(&b, `{"key":"client-%d"},`, from+i)
		}
		a := p.mustAsk(http.MethodPost, p.url+"/v1/checks", `{"checks":[`+strings.TrimSuffix(b.String(), ",")+`]}`)
		require.Equal(t, http.StatusOK, a.status, a.body)
	}
	var exposition string
	took := make([]time.Duration, 21)
	for i := range took {
		began := time.Now()
		exposition = p.mustAsk(http.MethodGet, p.admin+"/metrics", "").body
		took[i] = time.Since(began)
	}
	median, lines := measure.Quantile(took, 0.5), strings.Count(exposition, "\n")
	t.Logf("%d clients: %d lines, scraped in %v, the median of %d, at most %v", clients, lines, median, len(took), took[len(took)-1])
	measure.Keep(t, "scrape", map[string]any{"Clients": clients, "Lines": lines, "Median": median})
	if measure.Exact() {
		assert.Less(t, median, 50*time.Millisecond)
	}
	assert.Less(t, lines, 2000)
	assert.NotContains(t, exposition, "client-")
	assert.InDelta(t, clients, p.metric("velocity_decisions_total"), 0)
	p.stop()
}
