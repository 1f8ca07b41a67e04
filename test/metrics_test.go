package test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
	"github.com/velocity-limiter/velocity/test/measure"
)

func TestMetrics_countEachDecision(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "3"})
	for range 5 {
		p.Resource()
	}
	for range 2 {
		p.MustDo(http.MethodPost, p.URL+"/v1/check", `{"key":"alice"}`)
	}
	p.MustDo(http.MethodPost, p.URL+"/v1/check", `{"key":"alice","cost":0}`)
	assert.InDelta(t, 5, p.Metric("velocity_decisions_total", `outcome="allowed"`, `policy="default"`, `store="memory"`), 0)
	assert.InDelta(t, 2, p.Metric("velocity_decisions_total", `outcome="denied"`), 0)
	assert.InDelta(t, 7, p.Metric("velocity_decision_duration_seconds_count"), 0)
	assert.InDelta(t, 2, p.Metric("velocity_memory_buckets", `store="memory"`), 0)
	assert.InDelta(t, 1, p.Metric("velocity_build_info", `version="v0.0.0-test"`), 0)
	p.Stop()
}

func TestMetrics_countWhatTheUpstreamAnswers(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		w.WriteHeader(status)
	}))
	p := harness.Start(t, harness.Settings{"VELOCITY_UPSTREAM_URL": upstream.URL, "VELOCITY_CAPACITY": "100"})
	for _, path := range []string{"/200", "/204", "/404", "/503"} {
		p.MustDo(http.MethodGet, p.URL+path, "")
	}
	upstream.Close()
	assert.Equal(t, http.StatusBadGateway, p.MustDo(http.MethodGet, p.URL+"/200", "").Status)
	for class, want := range map[string]float64{"2xx": 2, "3xx": 0, "4xx": 1, "5xx": 1, "none": 1} {
		assert.InDelta(t, want, p.Metric("velocity_upstream_answers_total", `class="`+class+`"`), 0, class)
	}
	assert.InDelta(t, 4, p.Metric("velocity_upstream_duration_seconds_count"), 0)
	p.Stop()
}

func TestMetrics_nameTheRulesOfEnvoysFiles(t *testing.T) {
	p, e := startEnvoyService(t, harness.Settings{"VELOCITY_ENVOY_CONFIG": harness.WriteFile(t, "rules.yaml", `
domain: edge
descriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 1}}]
`)})
	e.mustLimit("edge", "user=alice")
	e.mustLimit("edge", "user=bob")
	e.mustLimit("edge", "user=bob")
	assert.InDelta(t, 2, p.Metric("velocity_decisions_total", `outcome="allowed"`, `policy="envoy-edge-user"`), 0)
	assert.InDelta(t, 1, p.Metric("velocity_decisions_total", `outcome="denied"`, `policy="envoy-edge-user"`), 0)
	assert.Zero(t, p.Metric("velocity_decisions_total", "alice"))
}

func TestMetricsAndProfiles_areBehindTheToken(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_ADMIN_TOKEN": "secret"})
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap"} {
		assert.Equal(t, http.StatusUnauthorized, p.MustDo(http.MethodGet, p.Admin+path, "").Status, path)
		a := p.MustDo(http.MethodGet, p.Admin+path, "", "Authorization: Bearer secret")
		assert.Equal(t, http.StatusOK, a.Status, path)
	}
	p.Stop()
}

func TestMetrics_stayShortUnderManyClients(t *testing.T) {
	clients, each := 200_000, 1000
	if harness.Race() { // each takes ten times as long there
		clients /= 10
	}
	p := harness.Start(t, harness.Settings{"VELOCITY_LOG_DECISIONS": "none", "VELOCITY_CLIENT_KEY": "header:X-Client-ID"})
	for from := 0; from < clients; from += each {
		var b strings.Builder
		for i := range each {
			fmt.Fprintf(&b, `{"key":"client-%d"},`, from+i)
		}
		a := p.MustDo(http.MethodPost, p.URL+"/v1/checks", `{"checks":[`+strings.TrimSuffix(b.String(), ",")+`]}`)
		require.Equal(t, http.StatusOK, a.Status, a.Body)
	}
	var exposition string
	took := make([]time.Duration, 21)
	for i := range took {
		began := time.Now()
		exposition = p.MustDo(http.MethodGet, p.Admin+"/metrics", "").Body
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
	assert.InDelta(t, clients, p.Metric("velocity_decisions_total"), 0)
	p.Stop()
}
