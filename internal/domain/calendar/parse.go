package calendar

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Parse returns the schedule of a quota.
//
//   - period is a calendar unit (minute, hour, day, week, month or year) or a duration as [time.ParseDuration] reads it,
//     in whole microseconds, from 1s to [domain.MaxFill].
//   - zone is a name of the time-zone database. Only a day, week, month and year may have one. Empty: UTC.
//   - anchor is a date, or an RFC 3339 time, from which periods are counted, forwards and backwards. A time is taken as the
//     wall time that the zone's clock shows then. Empty: the calendar's own starts, weeks on Monday, durations from the
//     epoch. An anchor on a day that a month lacks means the last day of that month.
//
// The error joins a [domain.FieldError] for each wrong field: "quota", "zone" and "anchor".
func Parse(period, zone, anchor string) (*Schedule, error) {
	s := &Schedule{period: period, zone: zone, anchor: anchor, loc: time.UTC}
	periodErr := s.parsePeriod()
	zoneErr := s.parseZone(periodErr == nil)
	err := errors.Join(periodErr, zoneErr, s.parseAnchor())
	if err != nil {
		return nil, err
	}
	return s, nil
}

const periodForm = "must be minute, hour, day, week, month or year, or a duration in h, m and s, as in 168h for 7 days"

func (s *Schedule) parsePeriod() error {
	switch s.period {
	case "minute":
		s.micros = time.Minute.Microseconds()
	case "hour":
		s.micros = time.Hour.Microseconds()
	case "day":
		s.micros = dayMicros
	case "week":
		s.micros = 7 * dayMicros
		s.origin = wall(4 * dayMicros) // 1970-01-05, a Monday
	case "month":
		s.months = 1
	case "year":
		s.months = 12
	default:
		return s.parseDuration()
	}
	return nil
}

func (s *Schedule) parseDuration() error {
	d, err := time.ParseDuration(s.period)
	switch {
	case err != nil || s.period[0] == '+':
		return fieldError("quota", s.period, periodAdvice(s.period))
	case d < time.Second || d > domain.MaxFill:
		return fieldError("quota", s.period, "a duration must be from 1s to 876000h, which is 100 years")
	case d%time.Microsecond != 0:
		return fieldError("quota", s.period, "a duration must be in whole microseconds")
	}
	s.micros, s.period = d.Microseconds(), domain.FormatDuration(d)
	return nil
}

// words maps other words that people use for a period to what to write.
var words = map[string]string{
	"s": "1s", "sec": "1s", "second": "1s",
	"m": "minute or month", "min": "minute", "minutely": "minute",
	"h": "hour", "hr": "hour", "hourly": "hour",
	"d": "day", "daily": "day",
	"w": "week", "wk": "week", "weekly": "week",
	"mo": "month", "mon": "month", "mth": "month", "monthly": "month",
	"y": "year", "yr": "year", "yearly": "year", "annually": "year", "annual": "year",
}

// periodAdvice says what to write instead of a period that is none, such as "m", "Days" and "1d".
func periodAdvice(period string) string {
	word := strings.TrimSpace(strings.TrimPrefix(strings.ToLower(period), "1"))
	if len(word) > 2 { // "ms" is no plural
		word = strings.TrimSuffix(word, "s")
	}
	switch word {
	case "minute", "hour", "day", "week", "month", "year":
		return "write " + word
	}
	if right := words[word]; right != "" {
		return "write " + right
	}
	return periodForm
}

// parseZone needs the step of the period, if that was valid.
func (s *Schedule) parseZone(periodValid bool) error {
	if s.zone == "" {
		return nil
	}
	if periodValid && !s.isCalendar() {
		return fieldError("zone", s.zone, "only a quota per day, week, month or year can have a zone")
	}
	loc, exists := loadZone(s.zone)
	if !exists {
		reason := "is not a name of the time-zone database " + ZonesVersion()
		if similar := similarZones(s.zone); len(similar) > 0 {
			reason += ": write " + strings.Join(similar, " or ")
		}
		return fieldError("zone", s.zone, reason)
	}
	s.loc = loc
	return nil
}

// isCalendar reports whether a period is a calendar unit of a day or longer.
func (s *Schedule) isCalendar() bool {
	return s.months != 0 || s.period == "day" || s.period == "week"
}

const anchorForm = "must be a date, as in 2026-01-15, or a time with its offset, as in 2026-01-15T08:00:00+01:00"

// parseAnchor needs the zone.
func (s *Schedule) parseAnchor() error {
	if s.anchor == "" {
		return nil
	}
	text := s.anchor
	if !strings.Contains(text, "T") {
		text += "T00:00:00Z"
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || text[len("2026-01-15T08")] != ':' || strings.Contains(text, ",") { // time.Parse accepts T8:00, and a comma
		reason := anchorForm
		if parse := (*time.ParseError)(nil); errors.As(err, &parse) && parse.Message != "" {
			reason = strings.TrimPrefix(parse.Message, ": ") + "; " + reason
		}
		return fieldError("anchor", s.anchor, reason)
	}
	if at.Nanosecond()%1000 != 0 {
		return fieldError("anchor", s.anchor, "must be in whole microseconds")
	}
	if text == s.anchor {
		_, offset := at.In(s.loc).Zone()
		at = at.Add(time.Duration(offset) * time.Second)
	}
	s.origin = wall(at.UnixMicro())
	return nil
}

func fieldError(field, value, reason string) error {
	return &domain.FieldError{Kind: domain.ErrInvalidLimit, Field: field, Value: strconv.Quote(value), Reason: reason}
}
