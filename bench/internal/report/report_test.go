package report_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
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
		Facts: []string{"over the law"},
		Ratio: &report.Ratio{Key: "rate", Of: "peer", Title: "x peer"},
	}
	add := func(group, subject, law string, rates, p99s []float64) {
		r := s.Row(group, subject)
		r.Facts["over the law"] = law
		for i := range rates {
			r.Rounds = append(r.Rounds, report.Values{"rate": rates[i], "p99": p99s[i]})
		}
	}
	add("64 goroutines", "Velocity", "0", []float64{130000, 60000, 140000}, []float64{900, 1800, 880})
	add("64 goroutines", "peer", "9 tokens", []float64{50000, 20000, 49000}, []float64{2500.25, 5000, 2400})
	add("512 goroutines", "Velocity", "0", []float64{1234567.4}, []float64{1})
	return &report.Report{
		Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: "1m0s", Command: "go run .", Quick: true,
		Machine:  []report.Fact{{Name: "processor", Value: "two cores"}},
		Sections: []*report.Section{s},
		Bars: []report.Bar{
			report.NewBar("times the peer at 64", 2.6, false, 2.5),
			report.NewBar("CPU against the limit", 2.3, true, 2.2),
			report.NewBar("nobody asked", math.NaN(), true, 1),
		},
	}
}

func TestWriteMarkdown_golden(t *testing.T) {
	var got bytes.Buffer
	require.NoError(t, example().WriteMarkdown(&got, map[string][]string{"inprocess": {"inprocess-rate"}}))
	golden := filepath.Join("testdata", "example.md")
	if *update {
		require.NoError(t, os.WriteFile(golden, got.Bytes(), 0o600))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), got.String())
}

func TestWriteJSON_keepsEveryRound(t *testing.T) {
	var text bytes.Buffer
	require.NoError(t, example().WriteJSON(&text))
	var back report.Report
	require.NoError(t, json.Unmarshal(text.Bytes(), &back))
	assert.Equal(t, []float64{130000, 60000, 140000}, back.Sections[0].Find("64 goroutines", "Velocity").Measured("rate"))
	assert.Nil(t, back.Bars[2].Got, "what was not measured is null, not a number")
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

func TestBar_met(t *testing.T) {
	cases := []struct {
		name string
		bar  report.Bar
		want bool
	}{
		{"above a lower mark", report.NewBar("", 2.6, false, 2.5), true},
		{"on a lower mark", report.NewBar("", 2.5, false, 2.5), true},
		{"below a lower mark", report.NewBar("", 2.4, false, 2.5), false},
		{"above an upper mark", report.NewBar("", 2.3, true, 2.2), false},
		{"on an upper mark", report.NewBar("", 2.2, true, 2.2), true},
		{"not measured", report.NewBar("", math.NaN(), true, 2.2), false},
	}
	for _, c := range cases {
		assert.Equal(t, c.want, c.bar.Met(), c.name)
	}
}
