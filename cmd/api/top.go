package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"
)

const topUsage = `Usage: api top [-policy NAME] [-by denials|requests] [-n N] [-every DURATION]

Lists the clients that were denied most, or asked most, over the last minute. "<=" marks an estimate: the true number
is at most that.
` + adminUsageEnd

// topReport is the answer of /v1/top.
type topReport struct {
	WindowMS int64 `json:"window_ms"`
	Policies []struct {
		Policy            string
		Requests, Denials uint64
		ByDenials         []topClient `json:"by_denials"`
		ByRequests        []topClient `json:"by_requests"`
	}
}

type topClient struct {
	Key, Source  string
	Count, Error uint64
}

func runTop(ctx context.Context, args []string, s streams) int {
	f := newFlags("top", topUsage)
	var admin adminFlags
	admin.define(f)
	policy := f.String("policy", "", "this `policy` alone")
	by := f.String("by", "denials", "what counts: `denials` or requests")
	n := f.Int("n", 10, "at most so many clients of a policy")
	every := f.Duration("every", 0, "look again after this `time`, until interrupted")
	rest, code, done := parseFlags(f, args, s)
	switch {
	case done:
		return code
	case len(rest) > 0:
		return s.misuse(f.Name(), fmt.Errorf("unknown argument %q", rest[0]))
	case *by != "denials" && *by != "requests":
		return s.misuse(f.Name(), fmt.Errorf("-by: %q: must be denials or requests", *by))
	case *every < 0:
		return s.misuse(f.Name(), fmt.Errorf("-every: %v: must not be negative", *every))
	}
	c, err := newAdminClient(admin.addr)
	if err != nil {
		return s.misuse(f.Name(), err)
	}
	path := "/v1/top?n=" + strconv.Itoa(*n)
	if *policy != "" {
		path += "&policy=" + url.QueryEscape(*policy)
	}
	for {
		var report topReport
		body, err := c.get(ctx, path, &report)
		switch {
		case errors.Is(err, context.Canceled):
			return exitOK
		case err != nil:
			return s.fail(err)
		case admin.json:
			printJSON(s.out, body)
		default:
			if *every > 0 {
				_, _ = io.WriteString(s.out, "\x1b[H\x1b[2J") // the terminal's upper left, and nothing below it
			}
			printTop(s.out, &report, *by)
		}
		if *every == 0 || !wait(ctx, *every) {
			return exitOK
		}
	}
}

// wait reports whether the time passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func printTop(w io.Writer, r *topReport, by string) {
	_, _ = fmt.Fprintf(w, "The last %d s\n", r.WindowMS/1000)
	for _, p := range r.Policies {
		_, _ = fmt.Fprintf(w, "\n%s: %d requests, %d denials\n", p.Policy, p.Requests, p.Denials)
		clients, head := p.ByDenials, "DENIALS"
		if by == "requests" {
			clients, head = p.ByRequests, "REQUESTS"
		}
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintf(table, "  CLIENT\t%s\n", head)
		for _, c := range clients {
			name, count := printable(c.Key), strconv.FormatUint(c.Count, 10)
			if c.Source != "" {
				name += " (by address: it had no key)"
			}
			if c.Error > 0 {
				count = "<= " + count
			}
			_, _ = fmt.Fprintf(table, "  %s\t%s\n", name, count)
		}
		_ = table.Flush()
	}
}
