package suite

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/velocity-limiter/velocity/bench/internal/invariant"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

// The columns of text that say whether a subject keeps its limit.
const (
	factOver  = "tokens over the limit"
	factPass  = "most in 1 s"
	factSpent = "lost to 10 denials"
	factForm  = "kind"
)

// examination checks whether a subject keeps its limit.
type examination func() (map[string]string, error)

// examine checks the subjects that were measured, all at once: each spends most of the time waiting.
func (s *Suite) examine(section *report.Section, examinations map[string]examination) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for subject, examine := range examinations {
		if !measured(section, subject) {
			continue
		}
		wg.Go(func() {
			facts, err := examine()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.fail(section.ID+"/limit/"+subject, err)
			}
			section.Describe(subject, facts)
		})
	}
	wg.Wait()
}

func measured(section *report.Section, subject string) bool {
	for _, r := range section.Rows {
		if r.Subject == subject {
			return true
		}
	}
	return false
}

// opener opens a limiter that runs in this process.
type opener struct {
	form  string
	open  func(peer.Limit) (*peer.Limiter, error)
	group func([]peer.Limit) (all, first *peer.Limiter, err error) // nil if it has no groups
}

// two opens the wide and the narrow limit: as a group if there are groups, else as two limiters, one called after the other.
func (o *opener) two() (both, wide *peer.Limiter, err error) {
	if o.group != nil {
		return o.group([]peer.Limit{invariant.Wide, invariant.Narrow})
	}
	if wide, err = o.open(invariant.Wide); err != nil {
		return nil, nil, err
	}
	narrow, err := o.open(invariant.Narrow)
	if err != nil {
		return nil, nil, errors.Join(err, wide.Shut())
	}
	return peer.Both(wide, narrow), wide, nil
}

func (s *Suite) examineLimiter(ctx context.Context, o opener) examination {
	return func() (_ map[string]string, err error) {
		limiter, err := o.open(usual)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, limiter.Shut()) }()
		finding, err := invariant.WorstAtTheEdge(ctx, limiter.NewTake(), "edge", usual, usual.Window(), s.cfg.InvariantTries)
		if err != nil {
			return nil, err
		}
		facts := describeFinding(finding, o.form)
		both, wide, err := o.two()
		if err != nil {
			return facts, err
		}
		defer func() { err = errors.Join(err, both.Shut()) }()
		spent, err := invariant.SpentByDenials(ctx, both.NewTake(), wide.NewTake(), "denied")
		if err != nil {
			return facts, err
		}
		facts[factSpent] = describeSpent(spent, o.group != nil)
		return facts, nil
	}
}

func describeFinding(f invariant.Finding, form string) map[string]string {
	if form == "" {
		form = "token bucket"
	}
	return map[string]string{
		factOver: fmt.Sprintf("%.1f", f.Over), factPass: fmt.Sprint(f.InOneSecond), factForm: form,
	}
}

func describeSpent(spent int, group bool) string {
	if group {
		return fmt.Sprintf("%d, one call", spent)
	}
	return fmt.Sprintf("%d, two calls", spent)
}
