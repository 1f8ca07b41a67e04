// Package calendar finds the period of a quota that contains an instant.
//
// A [Schedule] divides all time into periods. A period is a calendar unit, such as a day or a month, or a fixed
// duration. Periods follow each other without gap or overlap. The time-zone database is a part of this package, so the
// same schedule gives the same periods on every machine, whatever its system knows about zones.
//
// # The start of a period
//
// Each period starts at a wall time: a date and a time of day, as a clock in the schedule's zone shows them. The
// instant of a wall time is the first instant at which the clock shows that time or a later one. So a day starts at the
// first instant of its date, and it may have 23, 23.5 or 25 hours. Where clocks skip a wall time, the period starts when
// the skipped time ends. Where clocks show a wall time twice, the period starts at the first of the two. A period
// without any instant does not exist: a date that the zone skipped is no day.
package calendar

import (
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

const (
	dayMicros = int64(24 * time.Hour / time.Microsecond)
	// maxOffset is more than the offset of any zone from UTC, on either side: the largest is Manila's, -15:56:08 until 1844.
	maxOffset = int64(16 * time.Hour / time.Microsecond)
	// farthest bounds the instants for which periods are computed, some 36,000 years before and after 1970.
	farthest = domain.Instant(1) << 60
)

// Schedule is the sequence of a quota's periods. [Parse] makes it. It is immutable, but for a cache of the last period
// that was found. It is safe for concurrent use, and must not be copied. The zero value is not usable.
type Schedule struct {
	period       string // a calendar unit, or a duration as domain.FormatDuration writes it
	zone, anchor string // as configured

	// Period 0 starts at the wall time origin. Others start whole steps before or after it.
	origin wall
	months int64 // a step in months; 0: the step is micros
	micros int64 // a step in microseconds of wall time
	loc    *time.Location

	last atomic.Pointer[found]
}

// wall is a date and a time of day without a zone, in microseconds since 1970-01-01 00:00.
type wall int64

// found is a period, and the end of the next one.
type found struct{ start, end, nextEnd domain.Instant }

// At returns the period that contains now: start <= now < end. The next period is from end to nextEnd. The periods
// of instants more than 36,000 years from 1970 are not computed: At returns the last period before that.
// If now is in the period that was found last, At takes some nanoseconds and allocates nothing.
func (s *Schedule) At(now domain.Instant) (start, end, nextEnd domain.Instant) {
	p := s.last.Load()
	if p == nil || now < p.start || now >= p.end {
		p = s.find(min(max(now, -farthest), farthest))
		s.last.Store(p)
	}
	return p.start, p.end, p.nextEnd
}

func (s *Schedule) find(now domain.Instant) *found {
	latest := wall(now) // no clock of the zone shows a later wall time
	if s.loc != time.UTC {
		latest += wall(maxOffset)
	}
	k := s.stepsTo(latest)
	start := s.start(k)
	for start > now {
		k--
		start = s.start(k)
	}
	// The period k+1 starts after now, so it does not start with period k. Some after it may be empty.
	k++
	end := s.start(k)
	nextEnd := end
	for nextEnd == end {
		k++
		nextEnd = s.start(k)
	}
	return &found{start, end, nextEnd}
}

// start returns the instant at which period k starts. It does not decrease with k.
func (s *Schedule) start(k int64) domain.Instant { return instantOf(s.wallOf(k), s.loc) }

// stepsTo returns the highest k with wallOf(k) <= w, or one more.
func (s *Schedule) stepsTo(w wall) int64 {
	if s.months == 0 {
		return floorDiv(int64(w-s.origin), s.micros)
	}
	from, to := s.origin.time(), w.time()
	months := int64(to.Year()-from.Year())*12 + int64(to.Month()-from.Month())
	return floorDiv(months, s.months)
}

// wallOf returns the wall time at which period k starts. In a month without the origin's day that is its last day.
func (s *Schedule) wallOf(k int64) wall {
	if s.months == 0 {
		return s.origin + wall(k*s.micros)
	}
	origin := s.origin.time()
	first := time.Date(origin.Year(), origin.Month()+time.Month(k*s.months), 1, 0, 0, 0, 0, time.UTC)
	lastDay := first.AddDate(0, 1, -1).Day()
	day := int64(min(origin.Day(), lastDay) - 1)
	timeOfDay := int64(s.origin) - floorDiv(int64(s.origin), dayMicros)*dayMicros
	return wall(first.UnixMicro() + day*dayMicros + timeOfDay)
}

// time returns the wall time as the same date and time of day in UTC.
func (w wall) time() time.Time { return time.UnixMicro(int64(w)).UTC() }

// instantOf returns the first instant at which a clock in the zone shows w or later. It follows the zone's changes of
// its offset, from an instant before which no clock shows w.
func instantOf(w wall, loc *time.Location) domain.Instant {
	if loc == time.UTC {
		return domain.Instant(w)
	}
	from := floorDiv(int64(w)-maxOffset, int64(time.Second/time.Microsecond))
	for {
		at := time.Unix(from, 0).In(loc)
		_, offset := at.Zone()
		instant := max(domain.InstantOf(at), domain.Instant(w).Add(-time.Duration(offset)*time.Second))
		_, change := at.ZoneBounds()
		// On the last day of a leap year ZoneBounds may return a change that is not after at (go.dev/issue/81583).
		// Then none follows in the next days.
		if change.IsZero() || !change.After(at) || instant < domain.InstantOf(change) {
			return instant
		}
		from = change.Unix()
	}
}

// floorDiv rounds towards minus infinity; b > 0.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// Period returns the calendar unit, for example "day", or the duration as [domain.FormatDuration] writes it, for example "24h".
func (s *Schedule) Period() string { return s.period }

// Zone returns the name of the zone as configured. It is empty for the default, UTC.
func (s *Schedule) Zone() string { return s.zone }

// Anchor returns the date or time from which periods are counted, as configured. It is empty for the default.
func (s *Schedule) Anchor() string { return s.anchor }

// String returns a readable form: "day", "month in Europe/Berlin from 2026-01-15".
func (s *Schedule) String() string {
	out := s.period
	if s.zone != "" {
		out += " in " + s.zone
	}
	if s.anchor != "" {
		out += " from " + s.anchor
	}
	return out
}
