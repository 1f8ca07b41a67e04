//go:build integration

package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

type dashboard struct {
	UID    string
	Panels []struct {
		Title, Type string
		GridPos     struct{ H, W, X, Y int }
		Targets     []struct{ Expr string }
	}
}

// The query of every panel is valid and finds series in a real Prometheus that scrapes a real service.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../deploy/grafana/dashboards/velocity.json")
	require.NoError(t, err)
	var board dashboard
	require.NoError(t, json.Unmarshal(text, &board))
	require.Equal(t, "velocity", board.UID)

	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"message":"as of Velocity's own resource"}`)
	}))
	t.Cleanup(upstream.Close)
	p, _ := withRedis(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "20", "VELOCITY_UPSTREAM_URL": upstream.URL})
	m := watchWithPrometheus(t, p)
	require.Eventually(t, func() bool {
		for range 10 {
			request(p)
		}
		n, err := m.series(`rate(velocity_decisions_total{outcome="denied"}[5s]) > 0`)
		ratio, ratioErr := m.series(`policy:velocity_denials:ratio_rate5m`)
		return err == nil && ratioErr == nil && n > 0 && ratio > 0
	}, harness.Timeout, 10*harness.Interval)

	fill := strings.NewReplacer("$__rate_interval", "5s", "$job", "velocity", "$instance", ".*")
	queries := 0
	for _, panel := range board.Panels {
		assert.NotEmpty(t, panel.Title)
		assert.LessOrEqual(t, panel.GridPos.X+panel.GridPos.W, 24, panel.Title)
		if panel.Type != "row" {
			assert.NotEmpty(t, panel.Targets, panel.Title)
		}
		for _, target := range panel.Targets {
			queries++
			n, err := m.series(fill.Replace(target.Expr))
			assert.NoError(t, err, "%s: %s", panel.Title, target.Expr)
			assert.Positive(t, n, "%s shows nothing: %s", panel.Title, target.Expr)
		}
	}
	assert.Greater(t, queries, 30)
}
