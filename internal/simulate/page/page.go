// Package page writes what a simulation found as one HTML file: it loads nothing, runs no script, and suits light and
// dark. What clients sent stands in it as text alone.
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

// Page is what is shown.
type Page struct {
	// Logs are the names of the logs, and Notes what is to be said about reading them.
	Logs, Notes []string
	// Sides are one or two.
	Sides []Side
	// Changes from the first side to the second; nil if there is one.
	Changes *simulate.Changes
}

// Side is what one policy file did.
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

// percent shows what is not nothing as more than nothing.
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
