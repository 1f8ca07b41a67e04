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
			{"1 goroutine", "Velocity"}:     {"cpu": {110, 220, 112}},
			{"1 goroutine", "redis_rate"}:   {"cpu": {100, 195, 100}},
		}),
		section("shared-services", rows{
			{"HTTP/1.1", "Velocity, per client"}:            {"cpu": {20, 40, 20}},
			{"HTTP/1.1", "Velocity, per client and global"}: {"cpu": {22, 44, 24}},
		}),
		section("client-limits", rows{
			{"HTTP/1.1", "Velocity, one limit for all"}: {"cpu": {20, 40, 20}},
			{"HTTP/1.1", "Velocity, 1,000 conditions"}:  {"cpu": {21, 44, 21}},
		}),
		section("services", rows{
			{"requests of many clients", "Velocity, Redis"}:                   {"cpu": {30, 60, 30}},
			{"requests of many clients", "bare Fiber"}:                        {"cpu": {15, 30, 15}},
			{"requests of many clients", "bare net/http"}:                     {"cpu": {18, 36, 18}},
			{"requests of many clients", "envoyproxy/ratelimit"}:              {"cpu": {120, 240, 120}},
			{"requests of many clients", "envoyproxy/ratelimit, local cache"}: {"cpu": {100, 300, 100}},
			{"decision API", "Velocity, Redis, /v1/check"}:                    {"cpu": {50, 50, 50}},
			{"decision API", "Velocity, Redis, /v1/checks of 100"}:            {"cpu": {10, 10, 10}},
			{"flood of one blocked client", "Velocity, Redis"}:                {"scripts": {0.001, 0.02, 0.002}},
		}),
		section("shared", rows{
			{"64 goroutines", "Velocity, per client"}:            {"redis_cpu": {4, 4, 4}},
			{"64 goroutines", "Velocity, per client and global"}: {"redis_cpu": {4.4, 6, 4}},
			{"512 goroutines", "Velocity, one key for all"}:      {"redis_cpu": {0.2, 0.25, 0.4}, "rate": {900, 400, 700}},
			{"512 goroutines", "redis_rate, one key for all"}:    {"rate": {100, 50, 50}},
		}),
		section("inmemory", rows{
			{"usual limit, GOMAXPROCS 1", "Velocity"}:           {"ns": {80, 80, 80}, "allocs": {0, 0, 0}},
			{"usual limit, GOMAXPROCS 1", "go-limiter"}:         {"ns": {100, 200, 100}},
			{"usual limit, GOMAXPROCS 1", "throttled memstore"}: {"ns": {200, 100, 200}},
		}),
	}}
}

func TestTargets(t *testing.T) {
	got := make(map[string]report.Target)
	for _, target := range suite.Targets(measuredRun()) {
		got[target.Text] = target
	}
	for text, want := range map[string]float64{
		"decisions/s in process, times redis_rate's, 64 goroutines": 2.8,
		"p99 in process, times redis_rate's, 64 goroutines":         0.5,

		"Redis CPU of a per-client and a global limit, times the per-client limit's, 64 goroutines": 1.1,
		"Redis CPU us per decision of one key, 512 goroutines":                                      0.25,
		"decisions/s of one key, times redis_rate's, 512 goroutines":                                9,

		"CPU per HTTP decision of a per-client and a global limit, times the per-client limit's": 1.1,

		"CPU per HTTP decision with Redis of Velocity, 1,000 conditions, times that of one limit for all": 1.05,

		"CPU per HTTP decision with Redis, times envoyproxy/ratelimit's cheapest": 0.3, // the cheapest of each round: 100, 240, 100

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

func TestFront_hasWhatWasMeasured(t *testing.T) {
	front := suite.Front(measuredRun())
	var ids []string
	for _, s := range front {
		ids = append(ids, s.ID)
		assert.Len(t, suite.Charts(s), 1, s.ID)
	}
	require.Equal(t, []string{"front-inprocess", "front-services", "front-shared"}, ids, "no proxy was measured")
	assert.Len(t, front[0].Rows, 2, "of 64 goroutines; of 512 none was measured")
	assert.Contains(t, front[0].About, " takes 12.0 us of CPU time more than redis_rate's", "the median of 10, 25 and 12")
	var subjects []string
	for _, r := range front[1].Rows {
		subjects = append(subjects, r.Subject)
	}
	assert.Equal(t, []string{"Velocity, Redis", "envoyproxy/ratelimit", "envoyproxy/ratelimit, local cache", "bare Fiber", "bare net/http"}, subjects,
		"of requests of many clients alone")
}

func TestCosts_areDifferencesOfEachRound(t *testing.T) {
	assert.Equal(t, []report.Cost{
		{Text: "a lone one over Redis, 1 goroutine: the price of all limits or none, exactly", Beside: "redis_rate", Own: 112, Other: 100, Over: 12},
		{Text: "over HTTP, with Redis", Beside: "bare Fiber", Own: 30, Other: 15, Over: 15},
		{Text: "the same", Beside: "bare net/http", Own: 30, Other: 18, Over: 12},
		{Text: "by a client's and a global limit, over HTTP", Beside: "Velocity, per client", Own: 24, Other: 20, Over: 4},
	}, suite.Costs(measuredRun()), "what was not measured is left out")
}

func TestCharts_leaveOutWhatWasNotMeasured(t *testing.T) {
	s := &report.Section{
		ID: "services", Title: "Whole services",
		Columns: []report.Column{{Key: "cpu", Title: "CPU us", Decimals: 2, Chart: true, LowerIsBetter: true}, {Key: "p99", Title: "p99"}},
	}
	s.Row("g", "Velocity").Rounds = []report.Values{{"cpu": 2.25}, {}, {"cpu": 4.25}}
	s.Row("g", "bare Fiber").Rounds = []report.Values{{"cpu": 1}}
	s.Row("g", "bare net/http").Rounds = []report.Values{{"cpu": 1}}
	s.Row("g", "failed").Rounds = []report.Values{{}}
	s.Row("h", "failed").Rounds = []report.Values{{}}

	charts := suite.Charts(s)
	require.Len(t, charts, 1, "p99 is not to be drawn")
	c := charts["services-cpu"]
	require.Len(t, c.Groups, 1, "nothing of h was measured")
	require.Len(t, c.Groups[0].Bars, 3)
	velocity, bare := c.Groups[0].Bars[0], c.Groups[0].Bars[1]
	assert.InDelta(t, 2.25, velocity.Low, 1e-12)
	assert.InDelta(t, 4.25, velocity.Hi, 1e-12)
	assert.InDelta(t, 3.25, velocity.Value, 1e-9)
	assert.Equal(t, "3.25", velocity.Text)
	assert.True(t, velocity.Own)
	assert.True(t, bare.Bound)
	assert.True(t, c.Groups[0].Bars[2].Bound)
}
