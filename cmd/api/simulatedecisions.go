package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/simulate"
)

// loggedDecision is a line of the file that -decisions names.
type loggedDecision struct {
	File   string    `json:"file"`
	Log    string    `json:"log"`
	Line   int       `json:"line"`
	Time   time.Time `json:"time"`
	Policy string    `json:"policy,omitempty"`
	Client string    `json:"client,omitempty"`
	// Outcome is allowed, denied, blocked or exempt, shadow mode or not; unlimited where no policy applies, refused where
	// the service answers 400.
	Outcome string `json:"outcome"`
	Shadow  bool   `json:"shadow,omitempty"`
	// Limit, Remaining and RetryAfterMS are those of the limit that binds most.
	Limit        *int64 `json:"limit,omitempty"`
	Remaining    *int64 `json:"remaining,omitempty"`
	RetryAfterMS *int64 `json:"retry_after_ms,omitempty"`
	// DeniedBy are the limits that denied.
	DeniedBy []string `json:"denied_by,omitempty"`
	Error    string   `json:"error,omitempty"`
}

// listDecisions has every decision of a replay written to a file. finish ends the file.
func listDecisions(name string, files []string, replay *simulate.Replay) (finish func() error, err error) {
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
			failed = enc.Encode(newLoggedDecision(files[side], r, a))
		}
	}
	return func() error { return errors.Join(failed, w.Flush(), f.Close()) }, nil
}

func newLoggedDecision(file string, r *ports.LoggedRequest, a *ports.Answer) loggedDecision {
	line := loggedDecision{File: file, Log: r.Log, Line: r.Line, Time: r.At.Time()}
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
		limit, remaining, retry := int64(most.Capacity), int64(max(most.Remaining, 0)), retryMillis(most.RetryAfter)
		line.Limit, line.Remaining, line.RetryAfterMS = &limit, &remaining, &retry
	}
	for i := range d.Limits {
		if s := &d.Limits[i]; !s.Allowed && !s.LevelUnknown {
			line.DeniedBy = append(line.DeniedBy, s.Name)
		}
	}
	return line
}

// retryMillis rounds up; -1 is never.
func retryMillis(d time.Duration) int64 {
	if d == domain.Never {
		return -1
	}
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
