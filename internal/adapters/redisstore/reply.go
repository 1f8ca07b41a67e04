package redisstore

import (
	"fmt"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// groupFailed stands in a reply where a verdict would, before a message.
	groupFailed = -1
	maxInstant  = 1<<53 - 1
)

// decodeReply reads the script's reply into the groups. It believes nothing: a reply that is not exactly as
// take.lua describes it is an error that wraps ports.ErrUnavailable, and the results then mean nothing.
func decodeReply(reply any, groups []*group) error {
	elements, ok := reply.([]any)
	if !ok {
		return fmt.Errorf("%w: the script's reply is %T, not an array", ports.ErrUnavailable, reply)
	}
	r := reader{rest: elements}
	r.integer("version", protocolVersion, protocolVersion)
	now := domain.Instant(r.integer("time", 0, maxInstant))
	for _, g := range groups {
		r.group(&g.req, &g.result, now)
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

// group reads one group's answer.
func (r *reader) group(req *ports.TakeRequest, out *ports.TakeResult, now domain.Instant) {
	*out = ports.TakeResult{Buckets: out.Buckets[:0], Now: now, Store: domain.StoreRedis}
	highest := domain.Allowed
	if req.Op == domain.OpCharge {
		highest = domain.DebtExceeded
	}
	verdict := r.integer("verdict", groupFailed, int64(highest))
	if verdict == groupFailed {
		message, ok := r.next("message").(string)
		if !ok {
			r.fail("a group failed without a message")
		}
		out.Err = groupError(message)
		return
	}
	out.Verdict = domain.Verdict(verdict)
	for i := range req.Limits {
		l := &req.Limits[i]
		full := int64(l.Capacity()) * int64(l.TokenCredits())
		out.Buckets = append(out.Buckets, domain.Bucket{
			Credits:      domain.Credits(r.integer("level", -int64(domain.MaxCredits), full)),
			At:           now,
			TokenCredits: l.TokenCredits(),
		})
	}
	for i := range req.Limits {
		if req.Limits[i].TickMicros() > 1 {
			out.Buckets[i].At = domain.Instant(r.integer("level's time", 0, int64(now)))
		}
	}
}

// groupError is the failure of one group alone.
func groupError(message string) error {
	if strings.HasPrefix(message, "WRONGTYPE ") || strings.HasPrefix(message, "CORRUPT ") {
		return fmt.Errorf("%w: %w", ports.ErrCorrupt, scriptError(message))
	}
	return fmt.Errorf("%w: %w", ports.ErrUnavailable, scriptError(message))
}
