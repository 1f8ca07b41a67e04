package domain

import (
	"strconv"
	"strings"
	"time"
)

const rateForm = "must be <tokens>/<duration>, as in 5/s, 100/m, 1000/h or 3/250ms"

// ParseRate reads "<tokens>/<duration>". The duration is a unit alone (us, ms, s, m, h) or what
// [time.ParseDuration] accepts. [NewBucket] checks the ranges.
func ParseRate(s string) (refill Tokens, per time.Duration, err error) {
	bad := func(reason string) (Tokens, time.Duration, error) {
		return 0, 0, &FieldError{ErrInvalidLimit, "rate", strconv.Quote(s), reason}
	}
	refill, span, err := parseTokens("rate", s, rateForm)
	if err != nil {
		return 0, 0, err
	}
	switch span {
	case "us", "ms", "s", "m", "h":
		span = "1" + span
	}
	per, err = time.ParseDuration(span)
	if err != nil || span[0] == '-' || span[0] == '+' {
		if known := knownSpan(span); known != "" {
			return bad("must be " + strconv.FormatInt(int64(refill), 10) + "/" + known + ": durations have the units us, ms, s, m and h")
		}
		return bad(rateForm)
	}
	return refill, per, nil
}

const quotaForm = "must be <tokens>/<period>, as in 1000/day, 50000/month or 10000/24h"

// ParseQuota reads "<tokens>/<period>". The period is returned as it is written: package calendar reads it. [NewQuota] checks
// the range.
func ParseQuota(s string) (quota Tokens, period string, err error) {
	return parseTokens("quota", s, quotaForm)
}

// parseTokens reads "<tokens>/<rest>". form says what the field must be.
func parseTokens(field, s, form string) (n Tokens, rest string, err error) {
	count, rest, _ := strings.Cut(s, "/")
	reason := form
	if count != "" && rest != "" {
		n, err := strconv.ParseUint(count, 10, 63)
		if err == nil {
			return Tokens(n), rest, nil
		}
		reason = "the tokens " + strconv.Quote(count) + " are not a whole number in range; " + form
	}
	return 0, "", &FieldError{ErrInvalidLimit, field, strconv.Quote(s), reason}
}

// knownSpan returns a time in words that people use, such as d and 10min, in the form that [ParseRate] reads; "" for others.
func knownSpan(span string) string {
	word := strings.TrimLeft(span, "0123456789")
	n, err := strconv.ParseUint(span[:len(span)-len(word)], 10, 16)
	if word == span {
		n, err = 1, nil
	}
	if err != nil || n == 0 {
		return ""
	}
	var unit time.Duration
	switch strings.TrimSuffix(strings.ToLower(word), "s") {
	case "sec", "second":
		unit = time.Second
	case "min", "minute":
		unit = time.Minute
	case "hr", "hour":
		unit = time.Hour
	case "d", "day":
		unit = 24 * time.Hour
	case "w", "week":
		unit = 7 * 24 * time.Hour
	default:
		return ""
	}
	_, known, _ := strings.Cut(FormatRate(1, time.Duration(n)*unit), "/")
	return known
}

// FormatRate is the inverse of [ParseRate]. It writes the time as [FormatDuration] does, but a single unit without its number.
func FormatRate(refill Tokens, per time.Duration) string {
	n, unit := inUnits(per)
	out := strconv.FormatInt(int64(refill), 10) + "/"
	if n != 1 || unit == "ns" { // which ParseRate reads with a number only
		out += strconv.FormatInt(n, 10)
	}
	return out + unit
}

// ParseDuration reads a duration of a limit or a policy, as [time.ParseDuration] does: one that has a unit and no sign, in whole
// microseconds. The error is a [FieldError] about the field.
func ParseDuration(field, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil || strings.Trim(s, "0123456789.") == "" || s[0] == '-' || s[0] == '+':
		return 0, &FieldError{ErrInvalidLimit, field, strconv.Quote(s), "must be a duration with a unit and no sign, as in 500ms, 60s or 1h30m"}
	case d%time.Microsecond != 0:
		return 0, &FieldError{ErrInvalidLimit, field, strconv.Quote(s), "must be in whole microseconds"}
	}
	return d, nil
}

// FormatDuration writes a duration in the largest unit in which it is a whole number: 24h, 90m, 250ms.
func FormatDuration(d time.Duration) string {
	n, unit := inUnits(d)
	return strconv.FormatInt(n, 10) + unit
}

// inUnits returns a duration as a number of the largest unit in which it is whole.
func inUnits(d time.Duration) (n int64, unit string) {
	units := []struct {
		size time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "us"}}
	for _, u := range units {
		if d >= u.size && d%u.size == 0 {
			return int64(d / u.size), u.name
		}
	}
	return int64(d), "ns"
}
