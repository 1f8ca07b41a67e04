// Package report holds what a run of the benchmark measured and writes it as Markdown and as JSON. It keeps the value
// of every round; medians, spreads and ratios are worked out from them when they are shown.
package report

import (
	"maps"
	"math"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/stats"
)

// Report is one whole run.
type Report struct {
	Started  time.Time  `json:"started"`
	Took     string     `json:"took"`
	Command  string     `json:"command"`
	Quick    bool       `json:"quick"` // a smoke run: its figures mean nothing
	Machine  []Fact     `json:"machine"`
	Versions []Fact     `json:"versions"`
	Settings []Fact     `json:"settings"`
	Bars     []Bar      `json:"bars"`
	Sections []*Section `json:"sections"`
	// Failures are measurements that could not be taken, and why.
	Failures []string `json:"failures"`
}

// Fact is a name and a value.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Section is one table: subjects measured side by side, in groups that share a load.
type Section struct {
	ID      string   `json:"id"`
	Title   string   `json:"title"`
	About   string   `json:"about"`
	Columns []Column `json:"columns"`
	// Facts are the columns of text that the rows may have.
	Facts []string `json:"facts,omitempty"`
	// Ratio, if set, adds a column.
	Ratio *Ratio `json:"ratio,omitempty"`
	Rows  []*Row `json:"rows"`
}

// Column is a measured quantity.
type Column struct {
	Key      string `json:"key"`
	Title    string `json:"title"`
	Decimals int    `json:"decimals"`
	// Chart draws the column. LowerIsBetter is said in the chart.
	Chart         bool `json:"chart,omitempty"`
	LowerIsBetter bool `json:"lower_is_better,omitempty"`
}

// Ratio compares one column of each row with that of the row named Of in the same group.
type Ratio struct {
	Key   string `json:"key"`
	Of    string `json:"of"`
	Title string `json:"title"`
}

// Row is one subject under one load.
type Row struct {
	Group   string            `json:"group"`
	Subject string            `json:"subject"`
	Facts   map[string]string `json:"facts,omitempty"`
	// Rounds has one entry per round: the column's key and the value measured.
	Rounds []Values `json:"rounds"`
}

// Values are the measurements of one round by column key.
type Values map[string]float64

// Row returns the row of a group and subject, which it adds if there is none yet.
func (s *Section) Row(group, subject string) *Row {
	if r := s.Find(group, subject); r != nil {
		return r
	}
	r := &Row{Group: group, Subject: subject, Facts: make(map[string]string)}
	s.Rows = append(s.Rows, r)
	return r
}

// Describe sets facts of a subject under every load.
func (s *Section) Describe(subject string, facts map[string]string) {
	for _, r := range s.Rows {
		if r.Subject == subject {
			maps.Copy(r.Facts, facts)
		}
	}
}

// Find returns the row of a group and subject, or nil.
func (s *Section) Find(group, subject string) *Row {
	for _, r := range s.Rows {
		if r.Group == group && r.Subject == subject {
			return r
		}
	}
	return nil
}

// Groups returns the groups in the order of their first rows.
func (s *Section) Groups() []string {
	var groups []string
	seen := make(map[string]bool)
	for _, r := range s.Rows {
		if !seen[r.Group] {
			seen[r.Group] = true
			groups = append(groups, r.Group)
		}
	}
	return groups
}

// Series returns a column's value in each round; NaN where a round has none.
func (r *Row) Series(key string) []float64 {
	series := make([]float64, len(r.Rounds))
	for i, values := range r.Rounds {
		v, ok := values[key]
		if !ok {
			v = math.NaN()
		}
		series[i] = v
	}
	return series
}

// Measured returns the rounds that have a value for the column.
func (r *Row) Measured(key string) []float64 {
	var measured []float64
	for _, values := range r.Rounds {
		if v, ok := values[key]; ok {
			measured = append(measured, v)
		}
	}
	return measured
}

// Median of a column over the rounds; NaN if none has it.
func (r *Row) Median(key string) float64 { return stats.Median(r.Measured(key)) }

// Spread of a column over the rounds.
func (r *Row) Spread(key string) float64 { return stats.Spread(r.Measured(key)) }

// RatioTo is the median of the rounds' ratios of this row to another; NaN if there is no other.
func (r *Row) RatioTo(other *Row, key string) float64 {
	if other == nil {
		return math.NaN()
	}
	return stats.PairedRatio(r.Series(key), other.Series(key))
}

// Bar is a mark that the project has set itself.
type Bar struct {
	Text string `json:"text"`
	// Want is the mark, and AtMost says on which side of it the value should be.
	Want   float64 `json:"want"`
	AtMost bool    `json:"at_most"`
	// Got is what was measured; nil if this run did not measure it.
	Got *float64 `json:"got"`
}

// NewBar compares a measured value, NaN if there is none, with a mark.
func NewBar(text string, got float64, atMost bool, want float64) Bar {
	b := Bar{Text: text, Want: want, AtMost: atMost}
	if !math.IsNaN(got) {
		b.Got = &got
	}
	return b
}

// Met reports whether the mark was measured and reached.
func (b Bar) Met() bool {
	if b.Got == nil {
		return false
	}
	if b.AtMost {
		return *b.Got <= b.Want
	}
	return *b.Got >= b.Want
}
