package suite

import (
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/bench/internal/chart"
	"github.com/velocity-limiter/velocity/bench/internal/redispeer"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

// Charts draws the columns of a section that are to be drawn, by the name of the file.
func Charts(section *report.Section) map[string]*chart.Chart {
	charts := make(map[string]*chart.Chart)
	for _, column := range section.Columns {
		if column.Chart {
			charts[section.ID+"-"+strings.ReplaceAll(column.Key, "_", "-")] = draw(section, column)
		}
	}
	return charts
}

func draw(section *report.Section, column report.Column) *chart.Chart {
	better := "more is better"
	if column.LowerIsBetter {
		better = "less is better"
	}
	c := &chart.Chart{
		Title:    section.Title + ": " + column.Title,
		Subtitle: better + "; median of the rounds, the line is from the least to the most",
	}
	for _, name := range section.Groups() {
		group := chart.Group{Name: name}
		for _, r := range section.Rows {
			if r.Group == name {
				group.Bars = append(group.Bars, bars(r, column)...)
			}
		}
		if len(group.Bars) > 0 {
			c.Groups = append(c.Groups, group)
		}
	}
	return c
}

// bars returns one bar, or none if the row was not measured.
func bars(r *report.Row, column report.Column) []chart.Bar {
	values := r.Measured(column.Key)
	if len(values) == 0 {
		return nil
	}
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	median := r.Median(column.Key)
	return []chart.Bar{{
		Label: r.Subject, Value: median, Low: low, Hi: high,
		Text: report.Number(median, decimals(median, column.Decimals)), Own: isOwn(r.Subject), Bound: isBound(r.Subject),
	}}
}

// isBound reports whether a subject decides nothing and is a lower bound of the others.
func isBound(subject string) bool {
	return subject == redispeer.Script || subject == redispeer.Ping || subject == bareFiber || subject == bareHTTP
}

// decimals returns how many decimals to show: three digits in all, and at most so many.
func decimals(v float64, most int) int {
	digits := len(strconv.FormatInt(int64(v), 10))
	return max(0, min(most, 3-digits))
}
