package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

const inspectUsage = `Usage: api inspect [-policy NAME] [-source ip] CLIENT

Shows the buckets of one client, named by the value of the policy's key.
` + adminUsageEnd

// bucketReport is the answer of /v1/buckets.
type bucketReport struct {
	Policy, Source, Key, Store string
	Now                        time.Time
	Limits                     []struct {
		Name, Rate string
		Limit      int64
		Tokens     json.Number
		UpdatedAt  time.Time `json:"updated_at"`
		ExpiresAt  time.Time `json:"expires_at"`
	}
}

func runInspect(ctx context.Context, args []string, s streams) int {
	var of clientCommand
	c, code, done := of.parse(newFlags("inspect", inspectUsage), args, s)
	if done {
		return code
	}
	var report bucketReport
	body, err := c.buckets(ctx, &of, &report)
	return s.show(of.json, body, err, func() { printReport(s.out, &report) })
}

func printReport(w io.Writer, r *bucketReport) {
	_, _ = fmt.Fprintf(w, "%s under %s, by %s, in %s\n\n", printable(r.Key), r.Policy, r.Source, r.Store)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "LIMIT\tRATE\tTOKENS\tCAPACITY\tFULL IN\tLAST UPDATE")
	for _, l := range r.Limits {
		full := "full"
		if left := l.ExpiresAt.Sub(r.Now); left > 0 {
			full = left.Round(time.Millisecond).String()
		}
		updated := "-"
		if l.UpdatedAt.Unix() > 0 {
			updated = l.UpdatedAt.UTC().Format("2006-01-02 15:04:05.000")
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", l.Name, l.Rate, l.Tokens, l.Limit, full, updated)
	}
	_ = table.Flush()
	printUntouched(w, r)
}

// printUntouched says so when no token is missing, which may mean that another client was meant.
func printUntouched(w io.Writer, r *bucketReport) {
	for _, l := range r.Limits {
		if l.ExpiresAt.After(r.Now) {
			return
		}
	}
	_, _ = fmt.Fprintln(w, "\nNo token is missing: this client was not seen, or its buckets are full again.")
	// An address stands in for one header, cookie or parameter that is missing, and for no list.
	if strings.Contains(r.Source, ":") && !strings.Contains(r.Source, ",") {
		_, _ = fmt.Fprintf(w, "A client that had no %s counts by its address: -source ip\n", r.Source)
	}
}
