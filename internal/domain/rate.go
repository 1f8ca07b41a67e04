package domain

import (
	"strconv"
	"strings"
	"time"
)

const rateForm = "must be <tokens>/<duration>, as in 5/s, 100/m, 1000/h, 10000/24h or 3/250ms"

// ParseRate reads "<tokens>/<duration>". The duration is a unit alone (us, ms, s, m, h) or what
// [time.ParseDuration] takes. Ranges are left to [NewLimit].
func ParseRate(s string) (refill Tokens, per time.Duration, err error) {
	bad := func(reason string) (Tokens, time.Duration, error) {
		return 0, 0, &FieldError{ErrInvalidLimit, "rate", strconv.Quote(s), reason}
	}
	count, span, found := strings.Cut(s, "/")
	if !found || count == "" || span == "" {
		return bad(rateForm)
	}
	n, err := strconv.ParseUint(count, 10, 63)
	if err != nil {
		return bad("the tokens " + strconv.Quote(count) + " are not a whole number in range; " + rateForm)
	}
	switch span {
	case "us", "ms", "s", "m", "h":
		span = "1" + span
	}
	per, err = time.ParseDuration(span)
	if err != nil || span[0] == '-' || span[0] == '+' {
		return bad(rateForm)
	}
	return Tokens(n), per, nil
}

// FormatRate is the inverse of [ParseRate], in the largest unit that keeps it whole.
func FormatRate(refill Tokens, per time.Duration) string {
	units := []struct {
		size time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "us"}}
	out := strconv.FormatInt(int64(refill), 10) + "/"
	for _, u := range units {
		if per >= u.size && per%u.size == 0 {
			if n := int64(per / u.size); n > 1 {
				out += strconv.FormatInt(n, 10)
			}
			return out + u.name
		}
	}
	return out + strconv.FormatInt(int64(per), 10) + "ns"
}
