package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/velocity-limiter/velocity/internal/cli/command"
)

// Status shows the state of nodes.
var Status = command.Command{
	Name: "status", Purpose: "show the state of a running service, its shards and its decisions",
	Usage: "[-addr ADDRESSES] [-json]",
	Help: `Shows the state of a service, its shards, and what it has decided since it started. Of several nodes it shows the state of each,
and adds up the rest.
` + nodesHelp,
	Define: func(f *flag.FlagSet) command.Action {
		var flags nodeFlags
		flags.define(f)
		return func(ctx context.Context, args []string, s command.Streams) error {
			if err := command.NoArguments(args); err != nil {
				return err
			}
			answers, err := askNodes[statusReport](ctx, flags.addr, func(int) string { return "/v1/status" })
			if err != nil {
				return err
			}
			answered := reports(answers)
			if len(answered) == 0 {
				return failures(answers)
			}
			report, body := answered[0], answers[0].body
			if len(answers) > 1 {
				report = sumStatus(answered)
				if body, err = json.Marshal(statusOfNodes{*report, jsonNodes(answers, true)}); err != nil {
					return err
				}
			}
			flags.print(s.Out, body, func() {
				if len(answers) > 1 {
					printNodes(s.Out, answers)
				} else {
					_, _ = fmt.Fprintf(s.Out, "%s, version %s\n", report.State, report.Version)
				}
				report.print(s.Out)
			})
			return failures(answers)
		}
	},
}

// printNodes prints a line for each node.
func printNodes(w io.Writer, answers []nodeAnswer[statusReport]) {
	table := command.NewTable(w, "NODE\tSTATE\tVERSION")
	for _, a := range answers {
		state, version := "no answer", "-"
		if a.err == nil {
			state, version = a.report.State, a.report.Version
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", a.node, state, version)
	}
	_ = table.Flush()
	_, _ = io.WriteString(w, "\nAll together:\n")
}

// statusReport is the part of the answer of /v1/status that is printed.
type statusReport struct {
	State     string            `json:"state"`
	Version   string            `json:"version"`
	Decisions []statusDecisions `json:"decisions"`
	Latency   histogram         `json:"latency_seconds"`
	Shards    []statusShard     `json:"shards"`
}

type statusDecisions struct {
	Policy  string `json:"policy"`
	Outcome string `json:"outcome"`
	Store   string `json:"store"`
	Count   uint64 `json:"count"`
}

type statusShard struct {
	Name     string     `json:"name"`
	Up       bool       `json:"up"`
	Breaker  string     `json:"breaker,omitempty"`
	Queued   int        `json:"queued"`
	InFlight int        `json:"in_flight"`
	Failures uint64     `json:"failures"`
	Latency  *histogram `json:"latency_seconds,omitempty"`

	downFor, nodes int // how many of the nodes find it down, of those that have it; both 0 in the report of one node
}

// statusOfNodes is the JSON about several nodes: the members of one node's answer, and the nodes.
type statusOfNodes struct {
	statusReport
	Nodes []jsonNode `json:"nodes"`
}

// state says whether the shard is up.
func (s *statusShard) state() string {
	switch {
	case s.Up:
		return "up"
	case 0 < s.downFor && s.downFor < s.nodes:
		return fmt.Sprintf("DOWN for %d of %d", s.downFor, s.nodes)
	}
	return "DOWN"
}

func (r *statusReport) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "decided within: %s at the median, %s for 99 %%\n", r.Latency.quantile(.5), r.Latency.quantile(.99))
	if len(r.Shards) > 0 {
		table := command.NewTable(w, "\nSHARD\tSTATE\tBREAKER\tWAITING\tIN FLIGHT\tFAILURES\t99 % WITHIN")
		for _, s := range r.Shards {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n",
				s.Name, s.state(), cmp.Or(s.Breaker, "-"), s.Queued, s.InFlight, s.Failures, s.Latency.quantile(.99))
		}
		_ = table.Flush()
	}
	table := command.NewTable(w, "\nPOLICY\tOUTCOME\tDECIDED BY\tDECISIONS")
	for _, d := range r.Decisions {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", d.Policy, d.Outcome, d.Store, d.Count)
	}
	_ = table.Flush()
}

// histogram counts observations in seconds. Counts has one more element than Bounds, for what exceeds them all.
type histogram struct {
	Bounds []float64 `json:"bounds"`
	Counts []uint64  `json:"counts"`
	Sum    float64   `json:"sum"`
}

// quantile returns the upper bound of the class that holds the quantile q, as text; "-" if there are no observations.
func (h *histogram) quantile(q float64) string {
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
