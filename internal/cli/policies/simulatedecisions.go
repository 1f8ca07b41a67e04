package policies

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/simulate"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// decisionLine is one line of the file that -decisions names.
type decisionLine struct {
	File   string    `json:"file"`
	Log    string    `json:"log"`
	Line   int       `json:"line"`
	Time   time.Time `json:"time"`
	Policy string    `json:"policy,omitempty"`
	Client string    `json:"client,omitempty"`
	// Outcome is allowed, denied, blocked or exempt, also in shadow mode; unlimited if no policy applies; refused if the
	// service answers 400.
	Outcome string `json:"outcome"`
	Shadow  bool   `json:"shadow,omitempty"`
	// Limit, Remaining and RetryAfterMS are those of the most constraining limit.
	Limit        *int64 `json:"limit,omitempty"`
	Remaining    *int64 `json:"remaining,omitempty"`
	RetryAfterMS *int64 `json:"retry_after_ms,omitempty"`
	// WaitMS is how long the request would have waited instead of being denied.
	WaitMS int64 `json:"wait_ms,omitempty"`
	// DeniedBy names the limits that denied the request.
	DeniedBy []string `json:"denied_by,omitempty"`
	Error    string   `json:"error,omitempty"`
}

// recordDecisions makes a replay write every decision to a file. The caller must call finish after the replay.
func recordDecisions(name string, files []string, replay *simulate.Replay) (finish func() error, err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	var failed error
	replay.Decided = func(side int, r *ports.LoggedRequest, a *ports.Answer) {
		if failed == nil {
			failed = enc.Encode(newDecisionLine(files[side], r, a))
		}
	}
	return func() error { return errors.Join(failed, w.Flush(), f.Close()) }, nil
}

func newDecisionLine(file string, r *ports.LoggedRequest, a *ports.Answer) decisionLine {
	line := decisionLine{File: file, Log: r.Log, Line: r.Line, Time: r.At.Time()}
	if a.Err != nil {
		line.Outcome, line.Error = "refused", a.Err.Error()
		return line
	}
	d := &a.Decision
	line.Policy, line.Client, line.Outcome, line.Shadow = d.Policy, d.Client, d.Outcome.String(), d.Shadow
	if d.Policy == "" {
		line.Outcome = "unlimited"
	}
	if most := d.Constraining(); most != nil {
		line.Limit, line.Remaining = new(int64(most.Capacity)), new(int64(max(most.Remaining, 0)))
		line.RetryAfterMS = new(problem.Millis(most.RetryAfter))
	}
	line.WaitMS = problem.Millis(d.Wait)
	for i := range d.Limits {
		if s := &d.Limits[i]; !s.Allowed && !s.LevelUnknown {
			line.DeniedBy = append(line.DeniedBy, s.Name)
		}
	}
	return line
}
