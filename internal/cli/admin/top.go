package admin

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/cli/command"
)

// Top shows the clients with the most requests or denials.
var Top = command.Command{
	Name: "top", Purpose: "list the clients of a running service with the most denials or requests",
	Usage: "[-addr ADDRESSES] [-policy NAME] [-by denials|requests] [-n N] [-every DURATION]",
	Help: `Lists the clients that were denied most, or asked most, over the last minute. "<=" marks an estimate: the true number
is at most that. The counts of several nodes are added up.
` + nodesHelp,
	Define: func(f *flag.FlagSet) command.Action {
		t := new(topFlags)
		t.define(f)
		f.StringVar(&t.policy, "policy", "", "only this `policy`")
		f.StringVar(&t.by, "by", "denials", "what to count: `denials` or requests")
		f.IntVar(&t.n, "n", 10, "the number of clients listed for a policy, at most")
		f.DurationVar(&t.every, "every", 0, "repeat after this `time`, until interrupted")
		return t.run
	},
}

type topFlags struct {
	nodeFlags
	policy, by string
	n          int
	every      time.Duration
}

func (t *topFlags) run(ctx context.Context, args []string, s command.Streams) error {
	switch {
	case len(args) > 0:
		return command.NoArguments(args)
	case t.by != "denials" && t.by != "requests":
		return command.UsageError{Err: fmt.Errorf("-by: %q: must be denials or requests", t.by)}
	case t.every < 0:
		return command.UsageError{Err: fmt.Errorf("-every: %v: must not be negative", t.every)}
	}
	for {
		err := t.show(ctx, s)
		switch {
		case errors.Is(err, context.Canceled):
			return nil
		case t.every == 0:
			return err
		case err != nil && !errors.As(err, new(command.ListError)):
			return err
		case err != nil: // some nodes answered, and the others may answer next time
			s.Exit("top", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(t.every):
		}
	}
}

// maxTop is the most clients that a node lists. Several nodes are asked for all of them: few of a client's counts then lie beyond
// the end of a list.
const maxTop = 100

// show asks the nodes once and prints what they answer.
func (t *topFlags) show(ctx context.Context, s command.Streams) error {
	answers, err := askNodes[topReport](ctx, t.addr, t.path)
	if err != nil {
		return err
	}
	answered := reports(answers)
	switch {
	case ctx.Err() != nil:
		return context.Canceled
	case len(answered) == 0:
		if err := refusedByAll(answers); err != nil {
			return err
		}
		return failures(answers)
	}
	report, body := answered[0], answers[0].body
	if len(answers) > 1 {
		report = sumTop(answered, maxTop, t.n)
		if body, err = json.Marshal(topOfNodes{*report, jsonNodes(answers, false)}); err != nil {
			return err
		}
	}
	if t.policy != "" && len(report.Policies) == 0 {
		if err := t.checkPolicy(ctx, answers); err != nil {
			return err
		}
	}
	t.print(s.Out, body, func() {
		if t.every > 0 {
			_, _ = io.WriteString(s.Out, "\x1b[H\x1b[2J") // clear the terminal
		}
		if len(answers) > 1 {
			_, _ = fmt.Fprintf(s.Out, "%d of %s. ", len(answered), command.Plural(len(answers), "node", "nodes"))
		}
		report.print(s.Out, t.by)
	})
	return failures(answers)
}

func (t *topFlags) path(nodes int) string {
	n := t.n
	if nodes > 1 && 0 < n && n < maxTop { // a node refuses any other number, and says why
		n = maxTop
	}
	path := "/v1/top?n=" + strconv.Itoa(n)
	if t.policy != "" {
		path += "&policy=" + url.QueryEscape(t.policy)
	}
	return path
}

// checkPolicy returns an error if no node that answered has the policy.
func (t *topFlags) checkPolicy(ctx context.Context, answers []nodeAnswer[topReport]) error {
	var err error
	for _, a := range answers {
		if a.err != nil {
			continue
		}
		if err = a.client.checkPolicy(ctx, t.policy, false); err == nil {
			return nil
		}
	}
	return err
}

// topReport is the answer of /v1/top.
type topReport struct {
	WindowMS int64       `json:"window_ms"`
	Policies []topPolicy `json:"policies"`
}

type topPolicy struct {
	Policy     string      `json:"policy"`
	Requests   uint64      `json:"requests"`
	Denials    uint64      `json:"denials"`
	ByDenials  []topClient `json:"by_denials"`
	ByRequests []topClient `json:"by_requests"`
}

// topClient is a client with its count. The true count is from Count - Error to Count.
type topClient struct {
	Key    string `json:"key"`
	Source string `json:"source,omitempty"`
	Count  uint64 `json:"count"`
	Error  uint64 `json:"error"`
}

// topOfNodes is the JSON about several nodes: the members of one node's answer, and the nodes.
type topOfNodes struct {
	topReport
	Nodes []jsonNode `json:"nodes"`
}

func (r *topReport) print(w io.Writer, by string) {
	_, _ = fmt.Fprintf(w, "The last %d s\n", r.WindowMS/1000)
	if len(r.Policies) == 0 {
		_, _ = fmt.Fprintln(w, "\nThere were no requests.")
	}
	for _, p := range r.Policies {
		_, _ = fmt.Fprintf(w, "\n%s: %s, %s\n", p.Policy, command.Plural(p.Requests, "request", "requests"), command.Plural(p.Denials, "denial", "denials"))
		clients, heading := p.ByDenials, "DENIALS"
		if by == "requests" {
			clients, heading = p.ByRequests, "REQUESTS"
		}
		table := command.NewTable(w, "  CLIENT\t"+heading)
		for _, c := range clients {
			name, count := command.Printable(c.Key), strconv.FormatUint(c.Count, 10)
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
