package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/accesslog"
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/simulate"
	"github.com/velocity-limiter/velocity/internal/simulate/page"
)

// findings are what a simulation is reported by, in every form. It is the JSON that -json prints.
type findings struct {
	Files []string        `json:"files"`
	Logs  []string        `json:"logs"`
	Read  accesslog.Stats `json:"read"`
	// Evictions of buckets that were not full again: verdicts after them are too mild.
	Evictions uint64 `json:"evictions"`
	*simulate.Result
	// hosts says that a policy is for a host.
	hosts bool
}

func newFindings(c *simulation, read accesslog.Stats, result *simulate.Result, sides []simulate.Side, stores []*memstore.Store) *findings {
	found := &findings{Files: c.files(), Logs: c.logs, Read: read, Result: result}
	for _, store := range stores {
		found.Evictions += store.Stats().Evictions
	}
	for _, side := range sides {
		found.hosts = found.hosts || slices.ContainsFunc(side.Policies, func(p *domain.Policy) bool { return p.Match.Host != "" })
	}
	return found
}

func (f *findings) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(f)
}

func (f *findings) writeHTML(w io.Writer) error {
	p := page.Page{Logs: f.Logs, Notes: f.notes(), Changes: f.Changes}
	for i, report := range f.Reports {
		p.Sides = append(p.Sides, page.Side{File: f.Files[i], Report: report})
	}
	return page.Write(w, p)
}

// notes are what must be known to judge the figures.
func (f *findings) notes() []string {
	var notes []string
	note := func(n int, one, many string, examples []accesslog.Example) {
		if n == 0 {
			return
		}
		notes = append(notes, plural(n, one, many))
		for _, e := range examples {
			notes = append(notes, fmt.Sprintf("  %s:%d: %s: %q", e.Log, e.Line, e.Reason, e.Text))
		}
	}
	note(f.Read.Malformed, "line is no request", "lines are no requests", f.Read.MalformedExamples)
	note(f.Read.Refused, "request has a path that the service refuses with 400", "requests have paths that the service refuses with 400", f.Read.RefusedExamples)
	note(f.Read.Late, "line came later than -window allows, and counts as of the newest before it",
		"lines came later than -window allows, and count as of the newest before them", nil)
	noHost := 0
	if f.hosts {
		noHost = f.Read.NoHost
	}
	note(noHost, "request names no host, so that policies for a host do not match it; -host names one",
		"requests name no host, so that policies for a host do not match them; -host names one", nil)
	note(int(f.Evictions), "bucket was forgotten for lack of memory, so that its client was denied too little",
		"buckets were forgotten for lack of memory, so that their clients were denied too little", nil)
	return notes
}

func (f *findings) writeText(w io.Writer, top int) {
	_, _ = fmt.Fprintf(w, "%s of %s\n", plural(f.Read.Lines, "line", "lines"), plural(len(f.Logs), "log", "logs"))
	for _, n := range f.notes() {
		_, _ = fmt.Fprintln(w, n)
	}
	for i, report := range f.Reports {
		_, _ = fmt.Fprintf(w, "\n%s: ", f.Files[i])
		writeReport(w, report, top)
	}
	if f.Changes != nil {
		_, _ = fmt.Fprintf(w, "\nFrom %s to %s: ", f.Files[0], f.Files[1])
		writeChanges(w, f.Changes, top)
	}
}

func writeReport(w io.Writer, r *simulate.Report, top int) {
	_, _ = fmt.Fprintf(w, "%s", plural(r.Requests, "request", "requests"))
	if r.Requests > 0 {
		_, _ = fmt.Fprintf(w, " from %s to %s", stamp(r.From), stamp(r.To))
	}
	_, _ = fmt.Fprintf(w, "; %d would not pass (%s), %d matched no policy\n", r.Denied+r.Blocked, share(r.DeniedShare()), r.Unlimited)
	if r.Refused > 0 {
		_, _ = fmt.Fprintf(w, "%s would be refused with 400\n", plural(r.Refused, "request", "requests"))
		for _, x := range r.Refusals {
			_, _ = fmt.Fprintf(w, "  %s:%d: %s\n", x.Log, x.Line, x.Reason)
		}
	}
	table := newTable(w, "\nPOLICY\tMODE\tREQUESTS\tALLOWED\tDENIED\tBLOCKED\tEXEMPT\tSHARE\tCLIENTS\tCLIENTS DENIED\tFIRST DENIAL\tLAST DENIAL\tWORST MINUTE")
	for _, p := range r.Policies {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%d\t%d\t%s\t%s\t%s\n", p.Name, p.Mode, p.Requests, p.Allowed, p.Denied,
			p.Blocked, p.Exempt, share(p.Share), p.Clients, p.ClientsDenied, stamp(p.FirstDenied), stamp(p.LastDenied), minuteText(p.WorstMinute))
	}
	_ = table.Flush()
	table = newTable(w, "\nPOLICY\tLIMIT\tDENIED")
	for _, p := range r.Policies {
		for _, l := range p.Limits {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%d\n", p.Name, l.Name, l.Denied)
		}
	}
	_ = table.Flush()
	if top > 0 && r.Denied+r.Blocked > 0 {
		table = newTable(w, "\nPOLICY\tCLIENT\tREQUESTS\tDENIED\tFIRST DENIAL\tLAST DENIAL")
		for _, p := range r.Policies {
			for _, c := range p.Worst {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n", p.Name, printable(c.Client), c.Requests, c.Denied, stamp(c.First), stamp(c.Last))
			}
		}
		_ = table.Flush()
	}
}

func writeChanges(w io.Writer, c *simulate.Changes, top int) {
	_, _ = fmt.Fprintf(w, "%d newly denied (%s), %d newly allowed (%s)\n", c.NewlyDenied, plural(c.ClientsNewlyDenied, "client", "clients"),
		c.NewlyAllowed, plural(c.ClientsNewlyAllowed, "client", "clients"))
	table := newTable(w, "\nPOLICY\tREQUESTS BEFORE\tAFTER\tDENIED BEFORE\tAFTER\tNEWLY DENIED\tNEWLY ALLOWED")
	for _, p := range c.Policies {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%d\n", p.Name, requestsOf(p.Before), requestsOf(p.After),
			deniedOf(p.Before), deniedOf(p.After), p.NewlyDenied, p.NewlyAllowed)
	}
	_ = table.Flush()
	if top > 0 && len(c.Clients) > 0 {
		table = newTable(w, "\nPOLICY\tCLIENT\tNEWLY DENIED\tNEWLY ALLOWED")
		for _, x := range c.Clients {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%d\n", x.Policy, printable(x.Client), x.NewlyDenied, x.NewlyAllowed)
		}
		_ = table.Flush()
	}
}

func newTable(w io.Writer, head string) *tabwriter.Writer {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, head)
	return table
}

func requestsOf(c *simulate.Counts) string {
	if c == nil {
		return "-"
	}
	return strconv.Itoa(c.Requests)
}

func deniedOf(c *simulate.Counts) string {
	if c == nil {
		return "-"
	}
	return fmt.Sprintf("%d (%s)", c.Denied+c.Blocked, share(c.DeniedShare()))
}

// share is a part in per cent; what is not nothing is not shown as nothing.
func share(part float64) string {
	if part > 0 && part < 0.0001 {
		return "<0.01%"
	}
	return fmt.Sprintf("%.2f%%", 100*part)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func minuteText(m simulate.Minute) string {
	if m.Denied == 0 {
		return "-"
	}
	return fmt.Sprintf("%s: %d of %d", m.Start.UTC().Format("2006-01-02T15:04Z"), m.Denied, m.Requests)
}

// printable keeps what a client sent from acting on the terminal, and from breaking the table.
func printable(s string) string {
	quoted := strconv.Quote(s)
	if plain := quoted[1 : len(quoted)-1]; plain != s {
		return quoted
	}
	return s
}
