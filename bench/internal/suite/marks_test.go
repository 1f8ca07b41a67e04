package suite_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/suite"
)

// measuredRun is a report of three rounds.
func measuredRun() *report.Report {
	section := func(id string, rows map[[2]string]map[string][3]float64) *report.Section {
		s := &report.Section{ID: id}
		for at, columns := range rows {
			r := s.Row(at[0], at[1])
			for range 3 {
				r.Rounds = append(r.Rounds, report.Values{})
			}
			for key, values := range columns {
				for i, v := range values {
					r.Rounds[i][key] = v
				}
			}
		}
		return s
	}
	type rows = map[[2]string]map[string][3]float64
	return &report.Report{Sections: []*report.Section{
		section("inprocess", rows{
			{"64 goroutines", "Velocity"}:   {"rate": {130, 60, 140}, "p99": {1, 2, 1}},
			{"64 goroutines", "redis_rate"}: {"rate": {50, 20, 50}, "p99": {2, 4, 2}},
		}),
		section("services", rows{
			{"requests of many clients", "Velocity, Redis"}:                   {"cpu": {30, 60, 30}},
			{"requests of many clients", "bare Fiber"}:                        {"cpu": {15, 30, 15}},
			{"requests of many clients", "envoyproxy/ratelimit"}:              {"cpu": {120, 240, 120}},
			{"requests of many clients", "envoyproxy/ratelimit, local cache"}: {"cpu": {100, 300, 100}},
			{"decision API", "Velocity, Redis, /v1/check"}:                    {"cpu": {50, 50, 50}},
			{"decision API", "Velocity, Redis, /v1/checks of 100"}:            {"cpu": {10, 10, 10}},
			{"flood of one blocked client", "Velocity, Redis"}:                {"scripts": {0.001, 0.02, 0.002}},
		}),
		section("inmemory", rows{
			{"usual limit, GOMAXPROCS 1", "Velocity"}:           {"ns": {80, 80, 80}, "allocs": {0, 0, 0}},
			{"usual limit, GOMAXPROCS 1", "go-limiter"}:         {"ns": {100, 200, 100}},
			{"usual limit, GOMAXPROCS 1", "throttled memstore"}: {"ns": {200, 100, 200}},
		}),
	}}
}

func TestMarks(t *testing.T) {
	got := make(map[string]report.Bar)
	for _, bar := range suite.Marks(measuredRun()) {
		got[bar.Text] = bar
	}
	for text, want := range map[string]float64{
		"decisions/s in process, times redis_rate's, 64 goroutines":        2.8,
		"p99 in process, times redis_rate's, 64 goroutines":                0.5,
		"CPU per HTTP decision with Redis, times a bare Fiber handler's":   2,
		"the same, times envoyproxy/ratelimit's cheapest":                  0.3, // the cheapest of each round: 100, 240, 100
		"decisions per CPU second of /v1/checks of 100, times /v1/check's": 5,
		"scripts per denial in a flood":                                    0.002,
		"time in memory, times the fastest peer's, GOMAXPROCS 1":           0.8,
		"allocations in memory, GOMAXPROCS 1":                              0,
	} {
		require.Contains(t, got, text)
		require.NotNil(t, got[text].Got, text)
		assert.InDelta(t, want, *got[text].Got, 1e-9, text)
		assert.True(t, got[text].Met(), text)
	}
	assert.Nil(t, got["time in memory, times the fastest peer's, GOMAXPROCS 2"].Got, "not in this run")
}

func TestCharts_leaveOutWhatWasNotMeasured(t *testing.T) {
	s := &report.Section{
		ID: "services", Title: "Whole services",
		Columns: []report.Column{{Key: "cpu", Title: "CPU us", Decimals: 2, Chart: true, LowerIsBetter: true}, {Key: "p99", Title: "p99"}},
	}
	s.Row("g", "Velocity").Rounds = []report.Values{{"cpu": 2.25}, {}, {"cpu": 4.25}}
	s.Row("g", "bare Fiber").Rounds = []report.Values{{"cpu": 1}}
	s.Row("g", "failed").Rounds = []report.Values{{}}
	s.Row("h", "failed").Rounds = []report.Values{{}}

	charts := suite.Charts(s)
	require.Len(t, charts, 1, "p99 is not to be drawn")
	c := charts["services-cpu"]
	require.Len(t, c.Groups, 1, "nothing of h was measured")
	require.Len(t, c.Groups[0].Bars, 2)
	velocity, bare := c.Groups[0].Bars[0], c.Groups[0].Bars[1]
	assert.InDelta(t, 2.25, velocity.Low, 1e-12)
	assert.InDelta(t, 4.25, velocity.Hi, 1e-12)
	assert.InDelta(t, 3.25, velocity.Value, 1e-9)
	assert.Equal(t, "3.25", velocity.Text)
	assert.True(t, velocity.Own)
	assert.True(t, bare.Bound)
}
