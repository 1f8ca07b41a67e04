package httpfiber

import (
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// The names are set as they are written here: fasthttp would spell them X-Ratelimit-Limit.
var (
	headerLimit       = []byte("X-RateLimit-Limit")
	headerRemaining   = []byte("X-RateLimit-Remaining")
	headerRetry       = []byte("X-RateLimit-Retry-After")
	headerStore       = []byte("X-RateLimit-Store")
	headerRetryAfter  = []byte("Retry-After")
	headerPolicyField = []byte("RateLimit-Policy")
	headerLevelField  = []byte("RateLimit")
)

// setRateLimitHeaders says on an answer what a limit decided. Without limits, nothing was decided and nothing is
// said; where the failure policy decided, no level is known and none is told.
func setRateLimitHeaders(h *fasthttp.ResponseHeader, d *domain.Decision) {
	most := d.Constraining()
	if most == nil {
		return
	}
	buf := getBuffer()
	h.SetCanonical(headerLimit, strconv.AppendInt((*buf)[:0], int64(most.Capacity), 10))
	*buf = appendPolicyField((*buf)[:0], d.Limits)
	h.SetCanonical(headerPolicyField, *buf)
	if d.Store == domain.StoreFallback {
		h.SetCanonical(headerStore, append((*buf)[:0], domain.StoreFallback...))
	}
	if d.LevelKnown {
		h.SetCanonical(headerRemaining, strconv.AppendInt((*buf)[:0], int64(max(most.Remaining, 0)), 10))
		*buf = appendLevelField((*buf)[:0], d.Limits)
		h.SetCanonical(headerLevelField, *buf)
		// A cost above the capacity never passes, so there is no time to name.
		if d.Outcome == domain.OutcomeDenied && most.RetryAfter != domain.Never {
			*buf = strconv.AppendInt((*buf)[:0], max(ceilSeconds(most.RetryAfter), 1), 10)
			h.SetCanonical(headerRetry, *buf)
			h.SetCanonical(headerRetryAfter, *buf)
		}
	}
	putBuffer(buf)
}

// appendPolicyField writes RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers, a structured field (RFC 9651):
// "burst";q=10;w=2, where w is the time in which an empty bucket fills. Names of limits need no escaping.
func appendPolicyField(dst []byte, limits []domain.LimitStatus) []byte {
	for i := range limits {
		dst = appendItem(dst, i, limits[i].Name)
		dst = append(dst, ";q="...)
		dst = strconv.AppendInt(dst, int64(limits[i].Capacity), 10)
		dst = append(dst, ";w="...)
		dst = strconv.AppendInt(dst, ceilSeconds(limits[i].FillTime), 10)
	}
	return dst
}

// appendLevelField writes RateLimit: "burst";r=9;t=1, where t is the time until the next whole token. A full
// bucket has no t.
func appendLevelField(dst []byte, limits []domain.LimitStatus) []byte {
	for i := range limits {
		dst = appendItem(dst, i, limits[i].Name)
		dst = append(dst, ";r="...)
		dst = strconv.AppendInt(dst, int64(max(limits[i].Remaining, 0)), 10)
		if limits[i].NextToken > 0 {
			dst = append(dst, ";t="...)
			dst = strconv.AppendInt(dst, ceilSeconds(limits[i].NextToken), 10)
		}
	}
	return dst
}

func appendItem(dst []byte, i int, name string) []byte {
	if i > 0 {
		dst = append(dst, ", "...)
	}
	return appendName(dst, name)
}

// ceilSeconds rounds a wait up, against the client. Waits are below 200 years, so nothing overflows.
func ceilSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// ceilMillis rounds a wait up; Never is -1.
func ceilMillis(d time.Duration) int64 {
	if d == domain.Never {
		return -1
	}
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
