// Package report holds the results of a benchmark run and writes them as Markdown and JSON. It keeps the value of every
// round, and computes medians, spreads and ratios from those when it writes them.
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
	Targets  []Target   `json:"targets"`
	Costs    []Cost     `json:"costs"`
	Sections []*Section `json:"sections"`
	// Front is the comparisons that come first, as charts. Their rows are those of Sections.
	Front []*Section `json:"-"`
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
	// Difference states how much the row has above the other, and not how many times as much.
	Difference bool `json:"difference,omitempty"`
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

// Over is the median of the rounds' differences of this row to another; NaN if there is no other.
func (r *Row) Over(other *Row, key string) float64 {
	if other == nil {
		return math.NaN()
	}
	return stats.PairedDifference(r.Series(key), other.Series(key))
}

// Cost is the CPU time of a decision beside that of something else, in microseconds. It has no threshold.
type Cost struct {
	Text   string  `json:"text"`
	Beside string  `json:"beside"` // what the other does
	Own    float64 `json:"own_us"`
	Other  float64 `json:"other_us"`
	Over   float64 `json:"over_us"`
}

// Target is a threshold that the project has set itself.
type Target struct {
	Text string `json:"text"`
	// Want is the threshold, and AtMost says on which side of it the value should be.
	Want   float64 `json:"want"`
	AtMost bool    `json:"at_most"`
	// Got is what was measured; nil if this run did not measure it.
	Got *float64 `json:"got"`
}

// NewTarget compares a measured value, NaN if there is none, with a threshold.
func NewTarget(text string, got float64, atMost bool, want float64) Target {
	t := Target{Text: text, Want: want, AtMost: atMost}
	if !math.IsNaN(got) {
		t.Got = &got
	}
	return t
}

// Met reports whether the target was measured and reached.
func (t Target) Met() bool {
	if t.Got == nil {
		return false
	}
	if t.AtMost {
		return *t.Got <= t.Want
	}
	return *t.Got >= t.Want
}
