package domain

import (
	"strconv"
	"time"
)

// HeaderFields calls set with the name and the value of each header field that tells of the decision on an answer. The
// value is in buf and valid during the call alone; what buf has grown to is returned. Without limits nothing was decided
// and nothing is told; where no level is known, none is told.
func (d *Decision) HeaderFields(buf []byte, set func(name string, value []byte)) []byte {
	most := d.Constraining()
	if most == nil {
		return buf
	}
	number := func(name string, n int64) {
		buf = strconv.AppendInt(buf[:0], n, 10)
		set(name, buf)
	}
	number("X-RateLimit-Limit", int64(most.Capacity))
	buf = appendPolicyField(buf[:0], d.Limits)
	set("RateLimit-Policy", buf)
	if d.Store == StoreFallback {
		buf = append(buf[:0], StoreFallback...)
		set("X-RateLimit-Store", buf)
	}
	if d.Shadow {
		would := OutcomeDenied // a store that fails would have kept it out, too
		if d.Outcome == OutcomeAllowed {
			would = OutcomeAllowed
		}
		buf = append(buf[:0], would.String()...)
		set("X-RateLimit-Shadow", buf)
	}
	if !d.LevelKnown || most.LevelUnknown {
		return buf
	}
	number("X-RateLimit-Remaining", int64(max(most.Remaining, 0)))
	buf = appendLevelField(buf[:0], d.Limits)
	set("RateLimit", buf)
	// A cost above the capacity never passes, so there is no time to name.
	if d.Outcome == OutcomeDenied && !d.Shadow && most.RetryAfter != Never {
		wait := max(CeilSeconds(most.RetryAfter), 1)
		number("X-RateLimit-Retry-After", wait)
		number("Retry-After", wait)
	}
	return buf
}

// appendPolicyField writes RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers, a structured field (RFC 9651):
// "burst";q=10;w=2, where w is the time in which an empty bucket fills. Names of limits need no escaping.
func appendPolicyField(dst []byte, limits []LimitStatus) []byte {
	for i := range limits {
		dst = appendItem(dst, limits[i].Name)
		dst = append(dst, ";q="...)
		dst = strconv.AppendInt(dst, int64(limits[i].Capacity), 10)
		dst = append(dst, ";w="...)
		dst = strconv.AppendInt(dst, CeilSeconds(limits[i].FillTime), 10)
	}
	return dst
}

// appendLevelField writes RateLimit: "burst";r=9;t=1, where t is the time until the next whole token. A full bucket has no
// t, and a limit that was not looked at has no item.
func appendLevelField(dst []byte, limits []LimitStatus) []byte {
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
