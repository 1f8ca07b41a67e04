package decision

import (
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// MaxHeaderFields is more than one answer ever has, for arrays that hold them.
const MaxHeaderFields = 8

// HeaderFields is [HeaderFamilies.Fields] with all families.
func (d *Decision) HeaderFields(buf []byte, set func(name string, value []byte)) []byte {
	return AllHeaders.Fields(d, buf, set)
}

// Fields calls set with the name and the value of each rate limit header of an answer, but for the families that f leaves out. The
// value is in buf and valid only during the call. Fields returns buf, which may have grown. It sets no header for a decision without
// limits, and no header that depends on a level if the level is not known.
func (f HeaderFamilies) Fields(d *Decision, buf []byte, set func(name string, value []byte)) []byte {
	most := d.Constraining()
	if most == nil {
		return buf
	}
	vendor, standard := f&NoXRateLimit == 0, f&NoRateLimit == 0
	number := func(name string, n int64) {
		buf = strconv.AppendInt(buf[:0], n, 10)
		set(name, buf)
	}
	if vendor {
		number("X-RateLimit-Limit", int64(most.Capacity))
	}
	if standard {
		buf = appendPolicyField(buf[:0], d.Limits)
		set("RateLimit-Policy", buf)
	}
	if d.Store == StoreFallback {
		buf = append(buf[:0], StoreFallback...)
		set("X-RateLimit-Store", buf)
	}
	if d.Shadow {
		would := OutcomeDenied // also if the store failed: without shadow mode the request would not have passed
		if d.Outcome == OutcomeAllowed {
			would = OutcomeAllowed
		}
		buf = append(buf[:0], would.String()...)
		set("X-RateLimit-Shadow", buf)
	}
	if !d.LevelKnown || most.LevelUnknown {
		return buf
	}
	if vendor {
		number("X-RateLimit-Remaining", int64(max(most.Remaining, 0)))
	}
	if standard {
		buf = appendLevelField(buf[:0], d.Limits)
		set("RateLimit", buf)
	}
	// A cost above the capacity never passes, so there is no time after which to retry.
	if d.Outcome == OutcomeDenied && !d.Shadow && most.RetryAfter != domain.Never {
		wait := RetrySeconds(most.RetryAfter)
		if vendor {
			number("X-RateLimit-Retry-After", wait)
		}
		number("Retry-After", wait)
	}
	return buf
}

// appendPolicyField writes RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers, a structured field (RFC 9651):
// "burst";q=10;w=2, where w is the time in which an empty bucket fills, or the length of a quota's
// period, unknown when a failure policy decided. A concurrency limit has no w. Names of limits need no escaping.
func appendPolicyField(dst []byte, limits []domain.LimitStatus) []byte {
	for i := range limits {
		dst = appendItem(dst, limits[i].Name)
		dst = append(dst, ";q="...)
		dst = strconv.AppendInt(dst, int64(limits[i].Capacity), 10)
		if limits[i].Window > 0 {
			dst = append(dst, ";w="...)
			dst = strconv.AppendInt(dst, CeilSeconds(limits[i].Window), 10)
		}
	}
	return dst
}

// appendLevelField writes RateLimit: "burst";r=9;t=1, where t is the time until the next whole token: for a quota, until its period
// ends. A limit of which nothing is spent has no t, and a concurrency limit never has one. A limit that was not checked has no item.
func appendLevelField(dst []byte, limits []domain.LimitStatus) []byte {
	for i := range limits {
		if limits[i].LevelUnknown {
			continue
		}
		dst = appendItem(dst, limits[i].Name)
		dst = append(dst, ";r="...)
		dst = strconv.AppendInt(dst, int64(max(limits[i].Remaining, 0)), 10)
		if limits[i].NextToken > 0 {
			dst = append(dst, ";t="...)
			dst = strconv.AppendInt(dst, CeilSeconds(limits[i].NextToken), 10)
		}
	}
	return dst
}

func appendItem(dst []byte, name string) []byte {
	if len(dst) > 0 {
		dst = append(dst, ", "...)
	}
	dst = append(dst, '"')
	dst = append(dst, name...)
	return append(dst, '"')
}

// CeilSeconds rounds a wait up, against the client. Waits are below 200 years, so nothing overflows.
func CeilSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// RetrySeconds is a RetryAfter in whole seconds, rounded up, at least 1.
func RetrySeconds(d time.Duration) int64 { return max(CeilSeconds(d), 1) }
