package httpfiber

import (
	"strconv"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// appendResult writes a decision as the decision API answers it. Where a limit was not looked at, since the store failed
// or another one denied first, no level is known: remaining and reset_after_ms are then left out. After a charge,
// remaining may be below zero. A client who is blocked or exempt has no limits.
func appendResult(dst []byte, d *domain.Decision) []byte {
	dst = append(dst, `{"allowed":`...)
	dst = strconv.AppendBool(dst, d.Allowed())
	dst = append(dst, `,"policy":`...)
	dst = appendName(dst, d.Policy)
	if most := d.Constraining(); most != nil {
		dst = appendLevel(dst, most, d.LevelKnown && !most.LevelUnknown)
	}
	dst = append(dst, `,"mode":`...)
	dst = appendName(dst, modeOf(d).String())
	dst = append(dst, `,"store":`...)
	dst = appendName(dst, string(d.Store))
	dst = append(dst, `,"limits":[`...)
	for i := range d.Limits {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = appendName(dst, d.Limits[i].Name)
		dst = append(dst, `,"allowed":`...)
		dst = strconv.AppendBool(dst, d.Limits[i].Allowed)
		dst = appendLevel(dst, &d.Limits[i], d.LevelKnown && !d.Limits[i].LevelUnknown)
		dst = append(dst, '}')
	}
	return append(dst, "]}"...)
}

func modeOf(d *domain.Decision) domain.Mode {
	if d.Shadow {
		return domain.ModeShadow
	}
	return domain.ModeEnforce
}

func appendLevel(dst []byte, s *domain.LimitStatus, known bool) []byte {
	dst = append(dst, `,"limit":`...)
	dst = strconv.AppendInt(dst, int64(s.Capacity), 10)
	if known {
		dst = append(dst, `,"remaining":`...)
		dst = strconv.AppendInt(dst, int64(s.Remaining), 10)
	}
	dst = append(dst, `,"retry_after_ms":`...)
	dst = strconv.AppendInt(dst, ceilMillis(s.RetryAfter), 10)
	if known {
		dst = append(dst, `,"reset_after_ms":`...)
		dst = strconv.AppendInt(dst, ceilMillis(s.ResetAfter), 10)
	}
	return dst
}
