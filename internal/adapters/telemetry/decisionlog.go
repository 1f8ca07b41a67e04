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
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The messages are what operators search and alert for: they do not change.
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
)

const (
	maxValue = 128 // bytes of a value that a client can choose
	maxCause = 512 // bytes of an error

	// While the store fails, every request fails with it. So many lines of each message are written in each
	// interval, 8,640 a day; the next one says how many were left out.
	failureInterval = 10 * time.Second
	failureLines    = 1
)

// DecisionLog logs decisions and failures of the store. Decisions are never sampled, failures are. Safe for
// concurrent use.
type DecisionLog struct {
	decisions  *zap.Logger
	filter     Decisions
	failures   *zap.Logger // sampled
	suppressed atomic.Int64
	lines      sync.Pool // of *line
}

var _ ports.Observer = (*DecisionLog)(nil)

// line holds the fields of one log line: handed to zap through an interface, they would be garbage each time.
type line struct{ fields [13]zap.Field }

// NewDecisionLog logs to log what cfg asks for.
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
func (l *DecisionLog) Decided(req *domain.Request, d *domain.Decision) {
	if l.filter == DecisionsNone || l.filter == DecisionsBlocked && passes(d.Outcome) {
		return
	}
	ce := l.decisions.Check(zapcore.InfoLevel, decisionMessage(d))
	if ce == nil {
		return
	}
	buf := l.lines.Get().(*line)
	ce.Write(appendDecision(buf.fields[:0], req, d)...)
	clear(buf.fields[:]) // the strings are not ours to keep
	l.lines.Put(buf)
}

// passes is about the outcome: what shadow mode lets pass is logged as what it would have been.
func passes(o domain.Outcome) bool { return o == domain.OutcomeAllowed || o == domain.OutcomeExempt }

func decisionMessage(d *domain.Decision) string {
	switch d.Outcome {
	case domain.OutcomeAllowed, domain.OutcomeExempt:
		return msgAllowed
	case domain.OutcomeUnavailable:
		return msgUnavailable
	case domain.OutcomeBlocked:
		return msgForbidden
	default:
		return msgBlocked
	}
}

func appendDecision(f []zap.Field, req *domain.Request, d *domain.Decision) []zap.Field {
	f = append(f, zap.String("userID", cut(d.Client, maxValue)))
	most := d.Constraining()
	switch d.Outcome {
	case domain.OutcomeAllowed:
		if d.LevelKnown && most != nil {
			f = append(f, zap.Int64("remaining", int64(max(most.Remaining, 0))))
		}
	case domain.OutcomeExempt:
		f = append(f, zap.Bool("exempt", true))
	case domain.OutcomeUnavailable:
		f = append(f, zap.Int("reason", 503))
	case domain.OutcomeBlocked:
		f = append(f, zap.Int("reason", 403))
	case domain.OutcomeDenied:
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
	if d.KeyMissing {
		f = append(f, zap.Bool("keyMissing", true))
	}
	if d.Shadow {
		f = append(f, zap.Bool("shadow", true))
	}
	return f
}

// retryAfterSeconds rounds up. A cost above the capacity, which no waiting helps, gives -1.
func retryAfterSeconds(d time.Duration) int64 {
	if d == domain.Never {
		return -1
	}
	return int64((d + time.Second - 1) / time.Second)
}

// StoreFailed implements ports.Observer.
func (l *DecisionLog) StoreFailed(policy string, mode domain.FailureMode, cause error) {
	level, msg := failureMessage(mode, errors.Is(cause, ports.ErrOverloaded))
	ce := l.failures.Check(level, msg)
	if ce == nil {
		l.suppressed.Add(1)
		return
	}
	ce.Write(
		zap.String("policy", policy),
		zap.String("error", cut(cause.Error(), maxCause)),
		zap.Int64("suppressed", l.suppressed.Swap(0)),
	)
}

// failureMessage tells our own overload, which says nothing about Redis, from an outage.
func failureMessage(mode domain.FailureMode, overload bool) (zapcore.Level, string) {
	switch {
	case overload && mode == domain.FailClosed:
		return zapcore.WarnLevel, msgRefused
	case overload:
		return zapcore.WarnLevel, msgOverload
	case mode == domain.FailClosed:
		return zapcore.ErrorLevel, msgFailClosed
	case mode == domain.FailLocal:
		return zapcore.ErrorLevel, msgFailLocal
	default:
		return zapcore.ErrorLevel, msgFailOpen
	}
}

// cut shortens s to n bytes, or up to three fewer, so as not to end within a rune.
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
