package decisionapi

import (
	"strconv"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// appendResult writes the answer for a decision. It does so by hand, because the library would take longer than the rest of
// the handler. remaining and reset_after_ms are left out for a limit whose level is unknown, because the store failed or
// another limit denied first. After a charge, remaining may be below zero. A blocked or exempt client has no limits. Only a
// take that a store decided has taken_at_us, only one that must wait wait_ms, and only one that holds a permit permit.
func appendResult(dst []byte, op domain.Op, d *decision.Decision) []byte {
	dst = append(dst, `{"allowed":`...)
	dst = strconv.AppendBool(dst, d.Allowed())
	dst = append(dst, `,"policy":`...)
	dst = problem.AppendName(dst, d.Policy)
	if most := d.Constraining(); most != nil {
		dst = appendLevel(dst, most, d.LevelKnown && !most.LevelUnknown)
	}
	dst = append(dst, `,"mode":`...)
	dst = problem.AppendName(dst, modeOf(d).String())
	dst = append(dst, `,"store":`...)
	dst = problem.AppendName(dst, string(d.Store))
	if op == domain.OpTake && d.Cost > 0 && d.LevelKnown {
		dst = append(dst, `,"taken_at_us":`...)
		dst = strconv.AppendInt(dst, int64(d.At), 10)
	}
	if d.Wait > 0 {
		dst = append(dst, `,"wait_ms":`...)
		dst = strconv.AppendInt(dst, problem.Millis(d.Wait), 10)
	}
	if d.Permit != "" {
		dst = append(dst, `,"permit":`...)
		dst = problem.AppendName(dst, d.Permit)
		dst = appendExpiry(append(dst, ','), d.Lease)
	}
	dst = append(dst, `,"limits":[`...)
	for i := range d.Limits {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = problem.AppendName(dst, d.Limits[i].Name)
		dst = append(dst, `,"allowed":`...)
		dst = strconv.AppendBool(dst, d.Limits[i].Allowed)
		dst = appendLevel(dst, &d.Limits[i], d.LevelKnown && !d.Limits[i].LevelUnknown)
		dst = append(dst, '}')
	}
	return append(dst, "]}"...)
}

func modeOf(d *decision.Decision) policy.Mode {
	if d.Shadow {
		return policy.ModeShadow
	}
	return policy.ModeEnforce
}

func appendLevel(dst []byte, s *domain.LimitStatus, known bool) []byte {
	dst = append(dst, `,"limit":`...)
	dst = strconv.AppendInt(dst, int64(s.Capacity), 10)
	if known {
		dst = append(dst, `,"remaining":`...)
		dst = strconv.AppendInt(dst, int64(s.Remaining), 10)
	}
	dst = append(dst, `,"retry_after_ms":`...)
	dst = strconv.AppendInt(dst, problem.Millis(s.RetryAfter), 10)
	if known {
		dst = append(dst, `,"reset_after_ms":`...)
		dst = strconv.AppendInt(dst, problem.Millis(s.ResetAfter), 10)
	}
	return dst
}
