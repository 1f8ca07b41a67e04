// Package page writes the result of a simulation as one HTML file.
//
// The page loads nothing, runs no script, and has a light and a dark theme. Texts that clients sent are escaped.
package page

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/simulate"
)

// Page is the content of the page.
type Page struct {
	// Logs has the names of the logs, and Notes remarks on how they were read.
	Logs, Notes []string
	// Sides has one or two elements.
	Sides []Side
	// Changes from the first side to the second; nil if there is one.
	Changes *simulate.Changes
}

// Side is the result of one policy file.
type Side struct {
	// File is its name.
	File   string
	Report *simulate.Report
	// Chart is filled in by Write.
	Chart *chart
}

//go:embed page.html
var source string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"count":   count,
	"counted": counted,
	"percent": percent,
	"when":    when,
	"share":   func(c *simulate.Counts) string { return percent(c.DeniedShare()) },
}).Parse(source))

// Write writes the page.
func Write(w io.Writer, p Page) error {
	most := 0
	for _, side := range p.Sides {
		most = max(most, highest(&side.Report.Series))
	}
	for i := range p.Sides {
		p.Sides[i].Chart = newChart(&p.Sides[i].Report.Series, most)
	}
	return page.Execute(w, p)
}

// count groups the digits by thousands.
func count(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// counted counts things, given their name in the singular.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return count(n) + " " + thing + "s"
}

// percent never shows a positive share as zero.
func percent(share float64) string {
	if share > 0 && share < 0.0001 {
		return "<0.01 %"
	}
	return fmt.Sprintf("%.2f %%", 100*share)
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}
