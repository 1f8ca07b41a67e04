package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

const statusUsage = `Usage: api status

Shows how a service is: its state, its shards, and what it has decided since it started.
` + adminUsageEnd

// statusReport is the answer of /v1/status, as far as it is shown.
type statusReport struct {
	State, Version string
	Decisions      []struct {
		Policy, Outcome, Store string
		Count                  uint64
	}
	Latency histogram `json:"latency_seconds"`
	Shards  []struct {
		Name     string
		Up       bool
		Breaker  string
		Queued   int
		InFlight int `json:"in_flight"`
		Failures uint64
		Latency  *histogram `json:"latency_seconds"`
	}
}

type histogram struct {
	Bounds []float64
	Counts []uint64
}

func runStatus(ctx context.Context, args []string, s streams) int {
	f := newFlags("status", statusUsage)
	var admin adminFlags
	admin.define(f)
	rest, code, done := parseFlags(f, args, s)
	switch {
	case done:
		return code
	case len(rest) > 0:
		return s.misuse(f.Name(), fmt.Errorf("unknown argument %q", rest[0]))
	}
	c, err := newAdminClient(admin.addr)
	if err != nil {
		return s.misuse(f.Name(), err)
	}
	var report statusReport
	body, err := c.get(ctx, "/v1/status", &report)
	return s.show(admin.json, body, err, func() { printStatus(s.out, &report) })
}

func printStatus(w io.Writer, r *statusReport) {
	_, _ = fmt.Fprintf(w, "%s, version %s\n", r.State, r.Version)
	_, _ = fmt.Fprintf(w, "decided within: %s at the median, %s for 99 %%\n", r.Latency.atMost(.5), r.Latency.atMost(.99))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(r.Shards) > 0 {
		_, _ = fmt.Fprintln(table, "\nSHARD\tSTATE\tBREAKER\tWAITING\tIN FLIGHT\tFAILURES\t99 % WITHIN")
		for _, s := range r.Shards {
			state := "up"
			if !s.Up {
				state = "DOWN"
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n",
				s.Name, state, orDash(s.Breaker), s.Queued, s.InFlight, s.Failures, s.Latency.atMost(.99))
		}
	}
	_, _ = fmt.Fprintln(table, "\nPOLICY\tOUTCOME\tDECIDED BY\tDECISIONS")
	for _, d := range r.Decisions {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", d.Policy, d.Outcome, d.Store, d.Count)
	}
	_ = table.Flush()
}

// atMost is the upper end of the class in which the share q of the observations ends.
func (h *histogram) atMost(q float64) string {
	if h == nil {
		return "-"
	}
	total := uint64(0)
	for _, n := range h.Counts {
		total += n
	}
	rank := q * float64(total)
	below := uint64(0)
	for i, n := range h.Counts {
		if below += n; total == 0 || float64(below) < rank {
			continue
		}
		switch last := len(h.Bounds) - 1; {
		case i <= last:
			return "<= " + seconds(h.Bounds[i])
		case last >= 0:
			return "> " + seconds(h.Bounds[last])
		}
	}
	return "-"
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Microsecond).String()
}
