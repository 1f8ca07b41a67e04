package policies

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/adapters/accesslog"
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/simulate"
	"github.com/velocity-limiter/velocity/internal/simulate/page"
)

// findings hold what every form of the report shows. Their JSON is what -json prints.
type findings struct {
	Files []string        `json:"files"`
	Logs  []string        `json:"logs"`
	Read  accesslog.Stats `json:"read"`
	// Evictions counts buckets that were removed from memory before they were full. Their clients are denied too little.
	Evictions uint64 `json:"evictions"`
	*simulate.Result
	policies [][]*policy.Policy // of each file
}

func newFindings(c *simulateFlags, read accesslog.Stats, result *simulate.Result, sides []simulate.Side, stores []*memstore.Store) *findings {
	found := &findings{Files: c.files(), Logs: c.logs, Read: read, Result: result}
	for _, store := range stores {
		found.Evictions += store.Stats().Evictions
	}
	for _, side := range sides {
		found.policies = append(found.policies, side.Policies)
	}
	if slices.ContainsFunc(slices.Concat(found.policies...), hasSecret) { // a line may have the secret
		for _, examples := range [][]accesslog.Example{found.Read.MalformedExamples, found.Read.RefusedExamples} {
			for i := range examples {
				examples[i].Text = ""
			}
		}
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

// notes list what affects the figures.
func (f *findings) notes() []string {
	var notes []string
	note := func(n int, one, many string, examples []accesslog.Example) {
		if n == 0 {
			return
		}
		notes = append(notes, command.Plural(n, one, many))
		for _, e := range examples {
			text := fmt.Sprintf("  %s:%d: %s", e.Log, e.Line, e.Reason)
			if e.Text != "" {
				text += ": " + command.Escaped(e.Text)
			}
			notes = append(notes, text)
		}
	}
	note(f.Read.Malformed, "line is no request", "lines are no requests", f.Read.MalformedExamples)
	note(f.Read.Refused, "request has a path that the service refuses with 400", "requests have paths that the service refuses with 400", f.Read.RefusedExamples)
	note(f.Read.Late, "line came later than -window allows, and counts as of the newest before it",
		"lines came later than -window allows, and count as of the newest before them", nil)
	noHost := 0
	if slices.ContainsFunc(slices.Concat(f.policies...), func(p *policy.Policy) bool { return p.Match.Host != "" }) {
		noHost = f.Read.NoHost
	}
	note(noHost, "request names no host, so that policies for a host do not match it; -host names one",
		"requests name no host, so that policies for a host do not match them; -host names one", nil)
	note(int(f.Evictions), "bucket was forgotten for lack of memory, so that its client was denied too little",
		"buckets were forgotten for lack of memory, so that their clients were denied too little", nil)
	notes = append(notes, f.policyNotes()...)
	if text := unknownSecret(slices.Concat(f.policies...), "the service has other HMACs"); text != "" {
		notes = append(notes, text)
	}
	return notes
}

// policyNotes say which policies count by a value that the log does not have, which let requests wait, and which have limits that
// a log cannot try.
func (f *findings) policyNotes() (notes []string) {
	for i, policies := range f.policies {
		file := ""
		if len(f.policies) > 1 {
			file = f.Files[i] + ": "
		}
		for j, r := range f.Reports[i].Policies {
			if r.KeyMissing > 0 {
				notes = append(notes, fmt.Sprintf("%s%s: %d of %s no %s in the log, counted by address", file, r.Name,
					r.KeyMissing, command.Plural(r.Requests, "request has", "requests have"), strings.Join(sentSources(policies[j]), " or ")))
			}
			if r.Waited > 0 {
				notes = append(notes, fmt.Sprintf("%s%s: %s have waited, for up to %d ms", file, r.Name,
					command.Plural(r.Waited, "request would", "requests would"), r.LongestWaitMS))
			}
			if limit := policies[j].ConcurrencyLimit(); limit != "" {
				notes = append(notes, fmt.Sprintf("%s%s: the concurrency limit %s is not checked, since a log does not say how many requests are under way at once",
					file, r.Name, limit))
			}
		}
	}
	return notes
}

// sentSources are the sources of the policy's keys that a request may lack.
func sentSources(p *policy.Policy) (sources []string) {
	keys := []clientkey.Key{p.EffectiveKey()}
	for i := range p.Limits {
		keys = append(keys, p.KeyOf(p.Limits[i].Name()))
	}
	for _, key := range keys {
		for _, source := range key.Sources() {
			if !source.IsAddress() && source.Kind != clientkey.SourceGlobal {
				sources = append(sources, source.String())
			}
		}
	}
	slices.Sort(sources)
	return slices.Compact(sources)
}

func (f *findings) writeText(w io.Writer, top int) {
	_, _ = fmt.Fprintf(w, "%s of %s\n", command.Plural(f.Read.Lines, "line", "lines"), command.Plural(len(f.Logs), "log", "logs"))
	for i, report := range f.Reports {
		_, _ = fmt.Fprintf(w, "\n%s: ", f.Files[i])
		writeReport(w, report, top)
	}
	if f.Changes != nil {
		_, _ = fmt.Fprintf(w, "\nFrom %s to %s: ", f.Files[0], f.Files[1])
		writeChanges(w, f.Changes, top)
	}
	if notes := f.notes(); len(notes) > 0 {
		_, _ = fmt.Fprintf(w, "\n%s\n", strings.Join(notes, "\n"))
	}
}

func writeReport(w io.Writer, r *simulate.Report, top int) {
	_, _ = fmt.Fprintf(w, "%s", command.Plural(r.Requests, "request", "requests"))
	if r.Requests > 0 {
		_, _ = fmt.Fprintf(w, " from %s to %s", command.Stamp(r.From), command.Stamp(r.To))
	}
	_, _ = fmt.Fprintf(w, "; %d would not pass (%s), %d matched no policy\n", r.Denied+r.Blocked, share(r.DeniedShare()), r.Unlimited)
	if r.MissingKey > 0 {
		_, _ = fmt.Fprintf(w, "%s no key and would be refused with 401\n", command.Plural(r.MissingKey, "request has", "requests have"))
	}
	if r.Refused > 0 {
		_, _ = fmt.Fprintf(w, "%s would be refused with 400\n", command.Plural(r.Refused, "request", "requests"))
		for _, x := range r.Refusals {
			_, _ = fmt.Fprintf(w, "  %s:%d: %s\n", x.Log, x.Line, x.Reason)
		}
	}
	table := command.NewTable(w, "\nPOLICY\tMODE\tREQUESTS\tALLOWED\tDENIED\tBLOCKED\tEXEMPT\tSHARE\tCLIENTS\tCLIENTS DENIED\tFIRST DENIAL\tLAST DENIAL\tWORST MINUTE")
	for _, p := range r.Policies {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%d\t%d\t%s\t%s\t%s\n", p.Name, p.Mode, p.Requests, p.Allowed, p.Denied,
			p.Blocked, p.Exempt, share(p.Share), p.Clients, p.ClientsDenied, command.Stamp(p.FirstDenied), command.Stamp(p.LastDenied), minuteText(p.WorstMinute))
	}
	_ = table.Flush()
	table = command.NewTable(w, "\nPOLICY\tLIMIT\tDENIED")
	for _, p := range r.Policies {
		for _, l := range p.Limits {
			denied := strconv.Itoa(l.Denied)
			if l.NotChecked {
				denied = "not checked"
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", p.Name, l.Name, denied)
		}
	}
	_ = table.Flush()
	if top > 0 && r.Denied+r.Blocked > 0 {
		table = command.NewTable(w, "\nPOLICY\tCLIENT\tREQUESTS\tDENIED\tFIRST DENIAL\tLAST DENIAL")
		for _, p := range r.Policies {
			for _, c := range p.Worst {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n", p.Name, command.Printable(c.Client), c.Requests, c.Denied, command.Stamp(c.First), command.Stamp(c.Last))
			}
		}
		_ = table.Flush()
	}
}

func writeChanges(w io.Writer, c *simulate.Changes, top int) {
	_, _ = fmt.Fprintf(w, "%d newly denied (%s), %d newly allowed (%s)\n", c.NewlyDenied, command.Plural(c.ClientsNewlyDenied, "client", "clients"),
		c.NewlyAllowed, command.Plural(c.ClientsNewlyAllowed, "client", "clients"))
	table := command.NewTable(w, "\nPOLICY\tREQUESTS BEFORE\tAFTER\tDENIED BEFORE\tAFTER\tNEWLY DENIED\tNEWLY ALLOWED")
	for _, p := range c.Policies {
		requests, denied := figures(p.Before)
		requestsAfter, deniedAfter := figures(p.After)
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%d\n",
			p.Name, requests, requestsAfter, denied, deniedAfter, p.NewlyDenied, p.NewlyAllowed)
	}
	_ = table.Flush()
	if top > 0 && len(c.Clients) > 0 {
		table = command.NewTable(w, "\nPOLICY\tCLIENT\tNEWLY DENIED\tNEWLY ALLOWED")
		for _, x := range c.Clients {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%d\n", x.Policy, command.Printable(x.Client), x.NewlyDenied, x.NewlyAllowed)
		}
		_ = table.Flush()
	}
}

// figures formats the counts of a policy; nil for a side that does not have it.
func figures(c *simulate.Counts) (requests, denied string) {
	if c == nil {
		return "-", "-"
	}
	return strconv.Itoa(c.Requests), fmt.Sprintf("%d (%s)", c.Denied+c.Blocked, share(c.DeniedShare()))
}

// share formats a fraction as a percentage. It never shows a positive fraction as zero.
func share(part float64) string {
	if part > 0 && part < 0.0001 {
		return "<0.01%"
	}
	return fmt.Sprintf("%.2f%%", 100*part)
}

func minuteText(m simulate.Minute) string {
	if m.Denied == 0 {
		return "-"
	}
	return fmt.Sprintf("%s: %d of %d", m.Start.UTC().Format("2006-01-02T15:04Z"), m.Denied, m.Requests)
}
