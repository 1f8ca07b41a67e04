package policies

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// costText is what a request takes from the limit.
func costText(p *policy.Policy, l *domain.Limit) string {
	if l.Cost() == 0 && l.Kind() != domain.KindConcurrency {
		switch {
		case isShared(p):
			return "the policy's"
		case p.Cost.Header != "":
			return "header:" + p.Cost.Header
		case len(p.Cost.Estimate) > 1 || len(p.Cost.Estimate) == 1 && p.Cost.Estimate[0].Number == 0:
			return "estimate"
		}
	}
	return fmt.Sprint(l.CostOf(p.Cost.Tokens()))
}

// printSettlingHints says where an actual cost is not seen, and warns of policies in which it changes nothing.
func printSettlingHints(w io.Writer, policies []*policy.Policy) {
	var names []string
	for _, p := range policies {
		if p.Cost.Actual.IsZero() {
			continue
		}
		names = append(names, p.Name)
		counts := false
		forEachLimit(p, func(l *domain.Limit, _ string) {
			counts = counts || l.Cost() == 0 && l.Kind() != domain.KindConcurrency
		})
		if !counts {
			_, _ = fmt.Fprintf(w, "warning: %s: the actual cost changes nothing: every limit has a cost of its own\n", p.Name)
		}
	}
	if len(names) > 0 {
		_, _ = fmt.Fprintf(w, "hint: forward-auth takes the estimate under %s, and never learns the actual cost: it sees no answers: docs/policies.md#costs-known-afterwards\n",
			someOf(names))
	}
}

// printCostRemarks says what the cost of a request depends on, and that it is too high for a limit.
func printCostRemarks(w io.Writer, d *decision.Decision) {
	cost := &d.AppliedPolicy.Cost
	sources := cost.Estimate
	if cost.Header != "" {
		sources = []policy.CostSource{{Header: cost.Header}}
	}
	pointers := []string{}
	for i := range sources {
		switch s := &sources[i]; {
		case s.Header != "":
			other := fmt.Sprintf("the cost is %d", cost.Tokens())
			if len(cost.Estimate) > 0 {
				other = "it is as if it were missing"
			}
			_, _ = fmt.Fprintf(w, "\nThe service believes header:%s only from VELOCITY_TRUSTED_PROXIES. From any other peer %s.\n", s.Header, other)
		case s.Number == 0:
			pointers = append(pointers, s.String())
		}
	}
	if len(pointers) > 0 {
		_, _ = fmt.Fprintf(w, "\nThe cost may be in the request's body, which -body gives: %s.\n", strings.Join(pointers, ", else "))
	}
	if !cost.Actual.IsZero() {
		_, _ = fmt.Fprintf(w, "\nThis cost is an estimate. When the answer has ended, the difference to its actual cost is charged or refunded: %s.\n",
			strings.Join(cost.Actual.Sources(), " + "))
	}
	if d.Outcome == decision.OutcomeDenied { // every bucket is full here
		_, _ = fmt.Fprintf(w, "\nSuch a request can never pass: it costs more than the limit %s can hold.\n", d.Constraining().Name)
	}
}

// bodyOf reads the body of a request that is written on the command line, as itself or as @FILE.
func bodyOf(text string) func() ([]byte, error) {
	if text == "" {
		return nil
	}
	return func() ([]byte, error) {
		if path, isFile := strings.CutPrefix(text, "@"); isFile {
			return os.ReadFile(path)
		}
		return []byte(text), nil
	}
}
