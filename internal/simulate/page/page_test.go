package page_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/simulate"
	"github.com/velocity-limiter/velocity/internal/simulate/page"
)

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// report returns a report with one policy, a hostile client and a series of n bins.
func report(bins int) *simulate.Report {
	counts := simulate.Counts{Requests: 12_345, Allowed: 12_000, Denied: 340, Blocked: 5}
	r := &simulate.Report{
		Counts: counts, From: start, To: start.Add(time.Hour),
		Policies: []*simulate.PolicyReport{{
			Name: "search", Mode: "shadow", Counts: counts, Share: counts.DeniedShare(), ClientsDenied: 1, FirstDenied: start,
			WorstMinute: simulate.Minute{Start: start, Requests: 99, Denied: 77},
			Limits:      []simulate.LimitReport{{Name: "burst", Denied: 340}},
			Worst:       []simulate.ClientReport{{Client: `<script>alert("x")</script>`, Requests: 400, Denied: 345, First: start, Last: start}},
		}},
		Series: simulate.Series{Start: start, WidthSeconds: 60},
	}
	for i := range bins {
		r.Series.Bins = append(r.Series.Bins, simulate.Bin{Allowed: i, Denied: 2 * i})
	}
	return r
}

func written(t *testing.T, p page.Page) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, page.Write(&b, p))
	return b.String()
}

func TestWrite_showsTheFiguresAndTheClientsAsText(t *testing.T) {
	t.Parallel()
	html := written(t, page.Page{
		Logs: []string{"access.log"}, Notes: []string{"3 lines are no requests <b>"},
		Sides: []page.Side{{File: "limits.yaml", Report: report(10)}},
	})
	for _, want := range []string{
		"access.log", "limits.yaml", "12,345", "2.79 %", "shadow", "burst", "2026-11-24 12:00:00: 77 of 99",
		"3 lines are no requests &lt;b&gt;", "&lt;script&gt;", "2026-11-24 12:09:00 UTC: 9 allowed, 18 denied", "per minute",
	} {
		assert.Contains(t, html, want)
	}
	assert.NotContains(t, html, "<script", "a client's name is text")
	assert.NotContains(t, html, "What changes")
}

func TestWrite_loadsNothing(t *testing.T) {
	t.Parallel()
	html := written(t, page.Page{Sides: []page.Side{{Report: report(3)}}})
	assert.NotRegexp(t, `(?i)[\s"'](src|srcset|href)=|url\(|@import|https?:`, html)
	assert.Contains(t, html, `default-src 'none'`)
	assert.Contains(t, html, "prefers-color-scheme: dark")
}

func TestWrite_comparesTwoSidesOnOneScale(t *testing.T) {
	t.Parallel()
	small, large := report(4), report(4)
	large.Series.Bins[0].Allowed = 1000
	seven := simulate.Change{NewlyDenied: 7}
	html := written(t, page.Page{
		Sides: []page.Side{{File: "a.yaml", Report: small}, {File: "b.yaml", Report: large}},
		Changes: &simulate.Changes{
			Change: seven, Policies: []simulate.PolicyChange{{Name: "search", Before: &small.Counts, Change: seven}},
			Clients: []simulate.ClientChange{{Policy: "search", Client: "alice", Change: seven}},
		},
	})
	assert.Contains(t, html, "What changes")
	assert.Contains(t, html, `<td class="number more">7</td>`)
	assert.Equal(t, 2, strings.Count(html, ">1,200<"), "both charts reach as high")
}

func TestWrite_theChartIsWellFormedAndStaysInsideItsFrame(t *testing.T) {
	t.Parallel()
	for _, bins := range []int{1, 2, 7, 600} {
		html := written(t, page.Page{Sides: []page.Side{{Report: report(bins)}}})
		_, svg, drawn := strings.Cut(html, "<svg")
		require.Equal(t, bins > 1, drawn, "the first bin is empty")
		if !drawn {
			continue
		}
		svg, _, _ = strings.Cut(svg, "</svg>")
		d := xml.NewDecoder(strings.NewReader("<svg" + svg + "</svg>"))
		bars := 0
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
				bars++
				for _, a := range e.Attr {
					assert.NotContains(t, a.Value, "-", "%s of a bar", a.Name.Local)
					assert.NotContains(t, a.Value, "Inf")
				}
			}
		}
		assert.Equal(t, 2*bins, bars)
	}
}

func TestWrite_withoutRequestsThereIsNoChart(t *testing.T) {
	t.Parallel()
	html := written(t, page.Page{Sides: []page.Side{{Report: &simulate.Report{}}}})
	assert.NotContains(t, html, "<svg")
	assert.Contains(t, html, "0 requests:")
}

func TestWrite_countsOneAsOne(t *testing.T) {
	t.Parallel()
	one, many := report(1), report(1)
	one.Requests = 1
	html := written(t, page.Page{
		Sides:   []page.Side{{Report: one}, {Report: many}},
		Changes: &simulate.Changes{Change: simulate.Change{NewlyDenied: 1, NewlyAllowed: 2000}, ClientsNewlyDenied: 1, ClientsNewlyAllowed: 2},
	})
	assert.Contains(t, html, "Newly denied: 1 request of 1 client. Newly allowed: 2,000 requests of 2 clients.")
	assert.Contains(t, html, "<p>1 request from ")
	assert.Contains(t, html, "<p>12,345 requests from ")
}
