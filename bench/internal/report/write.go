package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// WriteJSON writes the whole report with every round.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteMarkdown writes the tables. charts names the files, without the theme's suffix, that were drawn for a section.
func (r *Report) WriteMarkdown(w io.Writer, charts map[string][]string) error {
	var b strings.Builder
	b.WriteString("# Benchmark\n\n")
	if r.Quick {
		b.WriteString("**A smoke run: it shows that the benchmark works. Its figures mean nothing.**\n\n")
	}
	fmt.Fprintf(&b, "`%s`, %s, in %s.\n\n", r.Command, r.Started.UTC().Format("2006-01-02 15:04 UTC"), r.Took)
	b.WriteString("Each figure is the median of the rounds; ± is half the distance between the best and the worst round, as a share " +
		"of the median. A ratio, or a difference, is the median of those of each round, whose measurements lie side by side in time.\n\n")
	for _, s := range r.Front {
		fmt.Fprintf(&b, "## %s\n\n%s\n", s.Title, s.About)
		for _, name := range charts[s.ID] {
			b.WriteString("\n" + picture(s, name) + "\n")
		}
		b.WriteString("\n")
	}
	if len(r.Costs) > 0 {
		b.WriteString("## CPU time beside\n\nWhat a decision costs above something that does less, in microseconds of CPU time. No target is set: these " +
			"figures follow the machine's speed.\n\n")
		writeTable(&b, costCells(r.Costs))
		b.WriteString("\n")
	}
	b.WriteString("## Machine and versions\n\n")
	for _, facts := range [][]Fact{r.Machine, r.Versions, r.Settings} {
		for _, f := range facts {
			fmt.Fprintf(&b, "- %s: %s\n", f.Name, f.Value)
		}
	}
	for i, f := range r.Failures {
		if i == 0 {
			b.WriteString("\n## Failed\n\n")
		}
		fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(f, "\n", "; "))
	}
	if len(r.Targets) > 0 {
		b.WriteString("\n## Targets\n\n")
		writeTable(&b, targetCells(r.Targets))
	}
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.Title, s.About)
		writeTable(&b, s.cells())
		for _, name := range charts[s.ID] {
			b.WriteString("\n" + picture(s, name) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteFront writes the comparisons that come first, a line for each: README.md is short. charts is that of WriteMarkdown.
func (r *Report) WriteFront(w io.Writer, charts map[string][]string) error {
	for _, s := range r.Front {
		line := "**" + s.Title + ".** " + s.About
		for _, name := range charts[s.ID] {
			line += "<br>" + picture(s, name) + "<br>"
		}
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// picture is a chart in the theme of its reader.
func picture(s *Section, name string) string {
	return fmt.Sprintf(`<picture><source media="(prefers-color-scheme: dark)" srcset="%s-dark.svg"><img src="%s-light.svg" alt="%s"></picture>`,
		name, name, s.Title)
}

func costCells(costs []Cost) [][]string {
	cells := [][]string{{"decision", "CPU us", "beside", "CPU us", "above it"}}
	for _, c := range costs {
		cells = append(cells, []string{c.Text, Number(c.Own, 2), c.Beside, Number(c.Other, 2), Number(c.Over, 2)})
	}
	return cells
}

func targetCells(targets []Target) [][]string {
	cells := [][]string{{"target", "wanted", "measured", "reached"}}
	for _, t := range targets {
		side := "at least "
		if t.AtMost {
			side = "at most "
		}
		got, reached := "not in this run", ""
		if t.Got != nil {
			got, reached = Number(*t.Got, 3), "no"
			if t.Met() {
				reached = "yes"
			}
		}
		cells = append(cells, []string{t.Text, side + strconv.FormatFloat(t.Want, 'g', -1, 64), got, reached})
	}
	return cells
}

// cells lays a section out, the header first. A column that no row has a value for is left out.
func (s *Section) cells() [][]string {
	var columns []Column
	for _, c := range s.Columns {
		if s.has(c.Key) {
			columns = append(columns, c)
		}
	}
	header := []string{"load", "subject"}
	for _, c := range columns {
		header = append(header, c.Title)
	}
	if s.Ratio != nil {
		header = append(header, s.Ratio.Title)
	}
	header = append(header, s.Facts...)
	cells := [][]string{header}
	for _, group := range s.Groups() {
		for _, r := range s.Rows {
			if r.Group == group {
				cells = append(cells, s.rowCells(r, columns))
			}
		}
	}
	return cells
}

func (s *Section) has(key string) bool {
	for _, r := range s.Rows {
		if len(r.Measured(key)) > 0 {
			return true
		}
	}
	return false
}

func (s *Section) rowCells(r *Row, columns []Column) []string {
	line := []string{r.Group, r.Subject}
	for _, c := range columns {
		cell := Number(r.Median(c.Key), c.Decimals)
		if spread := r.Spread(c.Key); spread > 0 {
			cell += fmt.Sprintf(" ±%.0f%%", 100*spread/2)
		}
		line = append(line, cell)
	}
	if s.Ratio != nil {
		compare := r.RatioTo
		if s.Ratio.Difference {
			compare = r.Over
		}
		line = append(line, Number(compare(s.Find(r.Group, s.Ratio.Of), s.Ratio.Key), 2))
	}
	for _, name := range s.Facts {
		line = append(line, r.Facts[name])
	}
	return line
}

// Number groups thousands with commas; a value that was not measured is a dash.
func Number(v float64, decimals int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	text := strconv.FormatFloat(math.Abs(v), 'f', decimals, 64)
	whole, fraction, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	if v < 0 {
		whole = "-" + whole
	}
	return whole
}

// writeTable pads the cells, so that the Markdown reads well on a terminal too.
func writeTable(b *strings.Builder, cells [][]string) {
	widths := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	for n, line := range cells {
		for i, cell := range line {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+1))
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				b.WriteString("| " + strings.Repeat("-", width) + " ")
			}
			b.WriteString("|\n")
		}
	}
}
