package velocity

import (
	"cmp"
	"log/slog"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// logInterval is the least time between two lines about a store that fails.
const logInterval = 10 * time.Second

// failures passes the failures of the store, and the permits lost by them, to [Config.OnFailure] and to the log.
type failures struct {
	handle func(policyName string, cause error) // may be nil
	quiet  bool                                 // nothing is logged
	logger *slog.Logger                         // nil: the default at the time

	mu    sync.Mutex
	last  time.Time
	since int // failures since the last line
}

func newFailures(cfg *Config) *failures {
	return &failures{handle: cfg.OnFailure, quiet: cfg.OnFailure != nil && cfg.Logger == nil, logger: cfg.Logger}
}

// Decided implements ports.Observer.
func (*failures) Decided(*policy.Request, *decision.Decision) {}

// Waiting, Waited and PermitsHeld implement ports.HoldObserver.
func (*failures) Waiting(string, int)              {}
func (*failures) Waited(string, ports.WaitOutcome) {}
func (*failures) PermitsHeld(string, int)          {}

// PermitExpired implements ports.HoldObserver.
func (f *failures) PermitExpired(policyName string) {
	f.report("velocity: a permit ended while it was held", policyName, "none", ErrPermitEnded)
}

// DebtReached implements ports.HoldObserver.
func (f *failures) DebtReached(policyName string) {
	f.report("velocity: a request cost more than a limit can owe", policyName, "none", ErrDebt)
}

// StoreFailed implements ports.Observer.
func (f *failures) StoreFailed(policyName string, mode policy.FailureMode, cause error) {
	text := "velocity: the store failed, and the failure mode decided"
	if mode == "" {
		mode, text = "none", "velocity: the store failed a charge, a refund, a release or a renewal"
	}
	f.report(text, policyName, mode, cause)
}

func (f *failures) report(text, policyName string, mode policy.FailureMode, cause error) {
	if f.handle != nil {
		f.handle(policyName, cause)
	}
	if f.quiet {
		return
	}
	f.mu.Lock()
	f.since++
	n, now := f.since, time.Now()
	if !f.last.IsZero() && now.Sub(f.last) < logInterval {
		f.mu.Unlock()
		return
	}
	f.last, f.since = now, 0
	f.mu.Unlock()
	cmp.Or(f.logger, slog.Default()).Error(text,
		"policy", policyName, "failure_mode", string(mode), "decisions", n, "error", cause)
}
