package telemetry

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Operators search and alert for these messages, so they must not change.
const (
	msgAllowed     = "Decision: ALLOWED"
	msgBlocked     = "Decision: BLOCKED (429)"
	msgUnavailable = "Decision: BLOCKED (503)"
	msgForbidden   = "Decision: BLOCKED (403)"

	msgFailOpen   = "Critical Redis Error: Falling back to Fail-Open Policy"
	msgFailClosed = "Critical Redis Error: Falling back to Fail-Closed Policy"
	msgFailLocal  = "Critical Redis Error: Falling back to Local Policy"
	msgOverload   = "Overload: Falling back to Local Policy"
	msgRefused    = "Overload: Falling back to Fail-Closed Policy"

	// These operations have no failure mode. Their callers got the error.
	msgFailed  = "Critical Redis Error: A refund, charge, release or renewal failed"
	msgNotDone = "Overload: A refund, charge, release or renewal was not carried out"
)

const (
	maxValue = 128 // bytes of a value that a client can choose
	maxCause = 512 // bytes of an error

	// While the store fails, every request would log a line. Instead each message is logged failureLines times in an
	// interval, 8,640 times a day, with the number of lines that were left out before.
	failureInterval = 10 * time.Second
	failureLines    = 1
)

// DecisionLog logs decisions and failures of the store. It logs every decision, and samples failures. It is safe for
// concurrent use.
type DecisionLog struct {
	decisions  *zap.Logger
	filter     Decisions
	failures   *zap.Logger // sampled
	suppressed atomic.Int64
	lines      sync.Pool // of *line
}

var _ ports.Observer = (*DecisionLog)(nil)

// line holds the fields of one log line. It is reused, since fields that zap gets through an interface escape to the heap.
type line struct{ fields [13]zap.Field }

// NewDecisionLog returns a DecisionLog that writes to log what cfg asks for.
func NewDecisionLog(cfg Config, log *Logger) *DecisionLog {
	sampled := zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, failureInterval, failureLines, 0)
	})
	return &DecisionLog{
		decisions: log.Logger,
		filter:    cfg.LogDecisions,
		failures:  log.WithOptions(sampled),
		lines:     sync.Pool{New: func() any { return new(line) }},
	}
}

// Decided implements ports.Observer.
func (l *DecisionLog) Decided(req *policy.Request, d *decision.Decision) {
	if l.filter == DecisionsNone || l.filter == DecisionsBlocked && passes(d.Outcome) {
		return
	}
	ce := l.decisions.Check(zapcore.InfoLevel, decisionMessages[d.Outcome])
	if ce == nil {
		return
	}
	buf := l.lines.Get().(*line)
	ce.Write(appendDecision(buf.fields[:0], req, d)...)
	clear(buf.fields[:]) // the strings belong to the request
	l.lines.Put(buf)
}

// passes reports whether an outcome passes. A denial in shadow mode does not: it is logged as the denial it would have been.
func passes(o decision.Outcome) bool {
	return o == decision.OutcomeAllowed || o == decision.OutcomeExempt
}

var decisionMessages = [...]string{
	decision.OutcomeAllowed: msgAllowed, decision.OutcomeExempt: msgAllowed, decision.OutcomeDenied: msgBlocked,
	decision.OutcomeUnavailable: msgUnavailable, decision.OutcomeBlocked: msgForbidden,
}

func appendDecision(f []zap.Field, req *policy.Request, d *decision.Decision) []zap.Field {
	f = append(f, zap.String("userID", cut(d.Client, maxValue)))
	most := d.Constraining()
	switch d.Outcome {
	case decision.OutcomeAllowed:
		if d.LevelKnown && most != nil {
			f = append(f, zap.Int64("remaining", int64(max(most.Remaining, 0))))
		}
	case decision.OutcomeExempt:
		f = append(f, zap.Bool("exempt", true))
	case decision.OutcomeUnavailable:
		f = append(f, zap.Int("reason", 503))
	case decision.OutcomeBlocked:
		f = append(f, zap.Int("reason", 403))
	case decision.OutcomeDenied:
		f = append(f, zap.Int("reason", 429))
		if most != nil {
			f = append(f, zap.Int64("retryAfter", retryAfterSeconds(most.RetryAfter)))
		}
	}
	if most != nil {
		f = append(f, zap.Int64("limit", int64(most.Capacity)))
	}
	f = append(f, zap.String("policy", d.Policy), zap.String("store", string(d.Store)))
	if d.LevelKnown {
		f = append(f, zap.Int64("storeTimeUs", int64(d.At)))
	}
	if req.ID != "" {
		f = append(f, zap.String("requestID", cut(req.ID, maxValue)))
	}
	if req.TraceID != "" {
		f = append(f, zap.String("traceId", req.TraceID))
	}
	if d.UsedFallbackKey {
		f = append(f, zap.Bool("keyMissing", true))
	}
	if d.Shadow {
		f = append(f, zap.Bool("shadow", true))
	}
	return f
}

// retryAfterSeconds rounds up. It returns -1 for a cost above the capacity, which can never pass.
func retryAfterSeconds(d time.Duration) int64 {
	if d == domain.Never {
		return -1
	}
	return int64((d + time.Second - 1) / time.Second)
}

// StoreFailed implements ports.Observer.
func (l *DecisionLog) StoreFailed(policyName string, mode policy.FailureMode, cause error) {
	level, msg := failureMessage(mode, errors.Is(cause, ports.ErrOverloaded))
	ce := l.failures.Check(level, msg)
	if ce == nil {
		l.suppressed.Add(1)
		return
	}
	ce.Write(
		zap.String("policy", policyName),
		zap.String("error", cut(cause.Error(), maxCause)),
		zap.Int64("suppressed", l.suppressed.Swap(0)),
	)
}

// failureMessage returns the message for a failure. Overload of this process has messages of its own, since Redis may be
// healthy then.
func failureMessage(mode policy.FailureMode, overload bool) (zapcore.Level, string) {
	switch {
	case overload && mode == "":
		return zapcore.WarnLevel, msgNotDone
	case overload && mode == policy.FailClosed:
		return zapcore.WarnLevel, msgRefused
	case overload:
		return zapcore.WarnLevel, msgOverload
	case mode == "":
		return zapcore.ErrorLevel, msgFailed
	case mode == policy.FailClosed:
		return zapcore.ErrorLevel, msgFailClosed
	case mode == policy.FailLocal:
		return zapcore.ErrorLevel, msgFailLocal
	default:
		return zapcore.ErrorLevel, msgFailOpen
	}
}

// cut shortens s to at most n bytes. It cuts up to three bytes more so that s does not end within a rune.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := n; i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:n]
}
