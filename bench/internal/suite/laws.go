package suite

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/velocity-limiter/velocity/bench/internal/law"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

// The columns of text that tell how a subject keeps the law.
const (
	factOver  = "over the law, tokens"
	factPass  = "most in 1 s"
	factSpent = "lost to 10 denials"
	factForm  = "kind"
)

// examination asks a subject how it keeps the law.
type examination func() (map[string]string, error)

// examine examines those subjects that were measured, all at once: each waits most of the time.
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
				s.fail(section.ID+"/law/"+subject, err)
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

// two opens the wide and the narrow limit: as a group where there are groups, else one to be asked after the other.
func (o *opener) two() (both, wide *peer.Limiter, err error) {
	if o.group != nil {
		return o.group([]peer.Limit{law.Wide, law.Narrow})
	}
	if wide, err = o.open(law.Wide); err != nil {
		return nil, nil, err
	}
	narrow, err := o.open(law.Narrow)
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
		finding, err := law.WorstAtTheEdge(ctx, limiter.NewTake(), "edge", usual, usual.Window(), s.cfg.LawTries)
		if err != nil {
			return nil, err
		}
		facts := describeFinding(finding, o.form)
		both, wide, err := o.two()
		if err != nil {
			return facts, err
		}
		defer func() { err = errors.Join(err, both.Shut()) }()
		spent, err := law.SpentByDenials(ctx, both.NewTake(), wide.NewTake(), "denied")
		if err != nil {
			return facts, err
		}
		facts[factSpent] = describeSpent(spent, o.group != nil)
		return facts, nil
	}
}

func describeFinding(f law.Finding, form string) map[string]string {
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
