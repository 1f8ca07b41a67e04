package script

import (
	"fmt"
	"math"
	"strings"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// ErrWrongPeriod says that a server decided nothing for a group, because its time was in neither of the two periods of a
// quota that it was sent. The result holds its time, so that the group can be sent again.
var ErrWrongPeriod = fmt.Errorf("%w: %w: %w", ports.ErrUnavailable, ports.ErrNotRun,
	failure.ScriptError("PERIOD the server's clock is in another period of the quota than it was a moment ago"))

const (
	// wrongPeriod stands in a reply in place of a verdict.
	wrongPeriod = int64(domain.DebtExceeded) + 1
	// severalPassed is, in place of a verdict, the number for a group of several requests of which none passed.
	severalPassed = wrongPeriod + 1
	// groupFailed stands in a reply in place of a verdict, before an error message.
	groupFailed = -1
	maxInstant  = 1<<53 - 1
)

// DecodeReply reads the script's reply into the results of the groups. It checks every element: a reply that is not exactly
// as take.lua describes it is an error that wraps ports.ErrUnavailable, and the results then mean nothing.
func DecodeReply(reply any, groups []*Group) error {
	elements, ok := reply.([]any)
	if !ok {
		return fmt.Errorf("%w: the script's reply is %T, not an array", ports.ErrUnavailable, reply)
	}
	r := reader{rest: elements}
	r.integer("version", protocolVersion, protocolVersion)
	now := domain.Instant(r.integer("time", 0, maxInstant))
	for _, g := range groups {
		r.group(g, now)
	}
	if r.err == nil && len(r.rest) > 0 {
		r.fail("%d elements too many", len(r.rest))
	}
	return r.err
}

// reader takes the elements of a reply off its front. After the first error it returns zeros.
type reader struct {
	rest []any
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: the script's reply is garbled: %w", ports.ErrUnavailable, fmt.Errorf(format, args...))
	}
	r.rest = nil
}

func (r *reader) next(what string) any {
	if len(r.rest) == 0 {
		r.fail("it ends before the %s", what)
		return nil
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

func (r *reader) integer(what string, lowest, highest int64) int64 {
	v := r.next(what)
	if r.err != nil {
		return 0
	}
	n, ok := v.(int64)
	if !ok || n < lowest || n > highest {
		r.fail("the %s is %.40q", what, fmt.Sprint(v))
		return 0
	}
	return n
}

func (r *reader) text(what string) string {
	s, ok := r.next(what).(string)
	if !ok {
		r.fail("the %s is no text", what)
	}
	return s
}

// group reads one group's result. The states of a group of several requests are those before the first.
func (r *reader) group(g *Group, now domain.Instant) {
	req, out := &g.Request, &g.Result
	*out = ports.TakeResult{States: out.States[:0], Now: now, Store: decision.StoreRedis}
	highest, times := wrongPeriod, g.times()
	if times > 1 {
		highest = severalPassed + int64(times)
	}
	switch verdict := r.integer("verdict", groupFailed, highest); {
	case verdict == groupFailed:
		out.Err = groupError(r.text("message"))
		return
	case verdict == wrongPeriod:
		out.Err = ErrWrongPeriod
		return
	case verdict >= severalPassed:
		g.passed = int(verdict - severalPassed)
	case times > 1:
		r.fail("the verdict of several is %d", verdict)
	case verdict == int64(domain.DebtExceeded) && req.Op != domain.OpCharge:
		r.fail("the verdict of no charge is %d", verdict)
	default:
		out.Verdict = domain.Verdict(verdict)
	}
	for i := range req.Limits {
		l := &req.Limits[i]
		s := l.Full(now)
		if l.Kind() == domain.KindConcurrency {
			out.States = append(out.States, s)
			continue
		}
		full := int64(l.Capacity()) * int64(s.TokenCredits)
		level := r.integer("level", -int64(domain.MaxCredits), full)
		if l.Quota() != nil {
			level = full - level // what was used
		}
		s.Amount = domain.Credits(level)
		out.States = append(out.States, s)
	}
	for i := range req.Limits {
		l := &req.Limits[i]
		if b := l.TokenBucket(); l.Quota() != nil || b != nil && b.TickMicros() > 1 {
			out.States[i].At = domain.Instant(r.integer("level's time", 0, int64(now)))
		}
	}
	r.permits(req, out, now)
}

// permits reads the states of the concurrency limits, and what a list lists of them.
func (r *reader) permits(req *ports.TakeRequest, out *ports.TakeResult, now domain.Instant) {
	for i := range req.Limits {
		if s := &out.States[i]; req.Limits[i].Kind() == domain.KindConcurrency {
			s.Amount = domain.Credits(r.integer("number of permits", 0, math.MaxUint32))
			s.At = domain.Instant(r.integer("permit's expiry", int64(now), maxInstant))
		}
	}
	if req.Op != domain.OpList {
		return
	}
	out.Permits = make([][]domain.Permit, len(req.Limits))
	for i := range req.Limits {
		if req.Limits[i].Kind() != domain.KindConcurrency {
			continue
		}
		for range r.integer("number of listed permits", 0, domain.MaxListed) {
			out.Permits[i] = append(out.Permits[i], domain.Permit{
				ID:      r.text("permit's ID"),
				Expires: domain.Instant(r.integer("permit's expiry", int64(now), maxInstant)),
			})
		}
	}
}

// groupError returns the error of one group that failed, while its neighbours were decided.
func groupError(message string) error {
	if strings.HasPrefix(message, "WRONGTYPE ") || strings.HasPrefix(message, "CORRUPT ") {
		return fmt.Errorf("%w: %w", ports.ErrCorrupt, failure.ScriptError(message))
	}
	cause := failure.ScriptError(message)
	return fmt.Errorf("%w: %w: %w", ports.ErrUnavailable, failure.Classify(cause).Effect, cause)
}
