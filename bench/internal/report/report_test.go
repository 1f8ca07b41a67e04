package report_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/report"
)

var update = flag.Bool("update", false, "write the golden files anew")

func example() *report.Report {
	s := &report.Section{
		ID: "inprocess", Title: "In process, one Redis", About: "A closed loop.",
		Columns: []report.Column{
			{Key: "rate", Title: "decisions/s", Chart: true},
			{Key: "p99", Title: "p99 us", Decimals: 1, LowerIsBetter: true},
			{Key: "never", Title: "never measured"},
		},
		Facts: []string{"over the limit"},
		Ratio: &report.Ratio{Key: "rate", Of: "peer", Title: "x peer"},
	}
	add := func(group, subject, over string, rates, p99s []float64) {
		r := s.Row(group, subject)
		r.Facts["over the limit"] = over
		for i := range rates {
			r.Rounds = append(r.Rounds, report.Values{"rate": rates[i], "p99": p99s[i]})
		}
	}
	add("64 goroutines", "Velocity", "0", []float64{130000, 60000, 140000}, []float64{900, 1800, 880})
	add("64 goroutines", "peer", "9 tokens", []float64{50000, 20000, 49000}, []float64{2500.25, 5000, 2400})
	add("512 goroutines", "Velocity", "0", []float64{1234567.4}, []float64{1})
	front := &report.Section{ID: "front-inprocess", Title: "Libraries", About: "Velocity decides more often.", Rows: s.Rows[:2]}
	return &report.Report{
		Front:   []*report.Section{front},
		Costs:   []report.Cost{{Text: "over HTTP", Beside: "bare Fiber", Own: 20.5, Other: 9.5, Over: 11.25}},
		Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: "1m0s", Command: "go run .", Quick: true,
		Machine:  []report.Fact{{Name: "processor", Value: "two cores"}},
		Sections: []*report.Section{s},
		Targets: []report.Target{
			report.NewTarget("times the peer at 64", 2.6, false, 2.5),
			report.NewTarget("CPU against the limit", 2.3, true, 2.2),
			report.NewTarget("not asked", math.NaN(), true, 1),
		},
	}
}

func TestWriteMarkdown_golden(t *testing.T) {
	var got bytes.Buffer
	charts := map[string][]string{"inprocess": {"inprocess-rate"}, "front-inprocess": {"charts/front-inprocess-rate"}}
	require.NoError(t, example().WriteMarkdown(&got, charts))
	golden := filepath.Join("testdata", "example.md")
	if *update {
		require.NoError(t, os.WriteFile(golden, got.Bytes(), 0o600))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), got.String())
}

func TestWriteFront_hasALineForEach(t *testing.T) {
	var got strings.Builder
	require.NoError(t, example().WriteFront(&got, map[string][]string{"front-inprocess": {"charts/front-inprocess-rate"}}))
	assert.Equal(t, "**Libraries.** Velocity decides more often.<br>"+
		`<picture><source media="(prefers-color-scheme: dark)" srcset="charts/front-inprocess-rate-dark.svg">`+
		`<img src="charts/front-inprocess-rate-light.svg" alt="Libraries"></picture><br>`+"\n", got.String())
}

func TestWriteMarkdown_statesADifference(t *testing.T) {
	s := &report.Section{
		ID: "services", Title: "Services", Columns: []report.Column{{Key: "cpu", Title: "CPU us", Decimals: 1}},
		Ratio: &report.Ratio{Key: "cpu", Of: "bare", Title: "CPU us over bare", Difference: true},
	}
	s.Row("g", "Velocity").Rounds = []report.Values{{"cpu": 20}, {"cpu": 45}, {"cpu": 22}}
	s.Row("g", "bare").Rounds = []report.Values{{"cpu": 9}, {"cpu": 20}, {"cpu": 10}}
	var got strings.Builder
	require.NoError(t, (&report.Report{Sections: []*report.Section{s}}).WriteMarkdown(&got, nil))
	assert.Contains(t, got.String(), "| 12.00 ", "the median of 11, 25 and 12, and not 22 - 10")
	assert.Contains(t, got.String(), "| 0.00 ")
}

func TestWriteJSON_keepsEveryRound(t *testing.T) {
	var text bytes.Buffer
	require.NoError(t, example().WriteJSON(&text))
	var back report.Report
	require.NoError(t, json.Unmarshal(text.Bytes(), &back))
	assert.Equal(t, []float64{130000, 60000, 140000}, back.Sections[0].Find("64 goroutines", "Velocity").Measured("rate"))
	assert.Nil(t, back.Targets[2].Got, "what was not measured is null, not a number")
}

func TestRatioTo_isOfEachRound(t *testing.T) {
	s := example().Sections[0]
	velocity, peer := s.Find("64 goroutines", "Velocity"), s.Find("64 goroutines", "peer")
	// 2.6, 3.0 and 2.857 in turn: the median is not the ratio of the medians, 2.653.
	assert.InDelta(t, 140.0/49, velocity.RatioTo(peer, "rate"), 1e-9)
	assert.True(t, math.IsNaN(velocity.RatioTo(nil, "rate")))
}

func TestRatioTo_leavesOutARoundThatFailed(t *testing.T) {
	s := &report.Section{}
	s.Row("g", "a").Rounds = []report.Values{{"rate": 10}, {}, {"rate": 30}}
	s.Row("g", "b").Rounds = []report.Values{{"rate": 10}, {"rate": 10}, {"rate": 10}}
	assert.InDelta(t, 2, s.Find("g", "a").RatioTo(s.Find("g", "b"), "rate"), 1e-12, "the median of 1 and 3")
}

func TestTarget_met(t *testing.T) {
	cases := []struct {
		name   string
		target report.Target
		want   bool
	}{
		{"above a lower threshold", report.NewTarget("", 2.6, false, 2.5), true},
		{"on a lower threshold", report.NewTarget("", 2.5, false, 2.5), true},
		{"below a lower threshold", report.NewTarget("", 2.4, false, 2.5), false},
		{"above an upper threshold", report.NewTarget("", 2.3, true, 2.2), false},
		{"on an upper threshold", report.NewTarget("", 2.2, true, 2.2), true},
		{"not measured", report.NewTarget("", math.NaN(), true, 2.2), false},
	}
	for _, c := range cases {
		assert.Equal(t, c.want, c.target.Met(), c.name)
	}
}
