package calendar_test

import (
	"flag"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

var allZones = flag.Bool("calendar.all", false, "compare every zone of the database with the oracle, not only unusual ones")

// unusualZones have days that are skipped or of odd length, midnights that do not exist or come twice, daylight saving
// time of half an hour, of two hours or in winter, and rules that no formula gives.
var unusualZones = []string{
	"Africa/Casablanca", "Africa/Monrovia", "America/Asuncion", "America/Sao_Paulo", "America/St_Johns", "Antarctica/Troll",
	"Asia/Beirut", "Asia/Kathmandu", "Australia/Lord_Howe", "Europe/Berlin", "Europe/Dublin", "Pacific/Apia", "Pacific/Kwajalein",
}

const (
	firstYear = 1970
	lastYear  = 2070 // not included
	day       = 24 * 60 * 60
)

// The oracle shares no code with the package: it finds the changes of a zone's offset by looking at each hour, lists every
// date, and notes when the zone's clock first shows each start.
func TestAt_agreesWithAnOracle(t *testing.T) {
	files := databaseFiles(t)
	names := unusualZones
	if *allZones {
		names = slices.Sorted(maps.Keys(files))
	}
	for _, name := range names {
		loc, err := time.LoadLocationFromTZData(name, files[name])
		require.NoError(t, err)
		offsets := offsetsOf(loc)
		for _, c := range []struct {
			period, anchor string
			starts         func(date) bool
			timeOfDay      int64
		}{
			{"day", "", func(date) bool { return true }, 0},
			{"week", "", func(d date) bool { return d.weekday == 1 }, 0},
			{"month", "", func(d date) bool { return d.day == 1 }, 0},
			{"year", "", func(d date) bool { return d.day == 1 && d.month == 1 }, 0},
			{"day", "2001-02-03T02:30:00", func(date) bool { return true }, 2*3600 + 30*60},
			{"week", "2040-01-07T23:59:59", func(d date) bool { return d.weekday == 6 }, day - 1},
			{"month", "2011-12-31T00:30:00", func(d date) bool { return d.day == daysIn(d.year, d.month) }, 30 * 60},
			{"month", "2011-12-30", func(d date) bool { return d.day == min(30, daysIn(d.year, d.month)) }, 0},
			{"year", "2024-02-29", func(d date) bool { return d.month == 2 && d.day == daysIn(d.year, 2) }, 0},
		} {
			anchor := c.anchor
			if c.timeOfDay != 0 { // the instant at which the zone's clock shows it
				at, err := time.ParseInLocation("2006-01-02T15:04:05", c.anchor, loc)
				require.NoError(t, err)
				anchor = at.Format(time.RFC3339)
			}
			s, err := calendar.Parse(c.period, name, anchor)
			require.NoError(t, err)
			requirePeriods(t, s, firstShown(offsets, wallTimes(c.starts, c.timeOfDay)))
		}
	}
}

// requirePeriods requires that the periods of s start at these instants, in seconds, and at no other.
func requirePeriods(t *testing.T, s *calendar.Schedule, starts []int64) {
	t.Helper()
	const second = domain.Instant(1_000_000)
	for i := 0; i+2 < len(starts); i++ {
		want := [3]domain.Instant{domain.Instant(starts[i]) * second, domain.Instant(starts[i+1]) * second, domain.Instant(starts[i+2]) * second}
		for _, now := range []domain.Instant{want[0], (want[0] + want[1]) / 2, want[1] - 1} {
			var got [3]domain.Instant
			got[0], got[1], got[2] = s.At(now)
			if got != want {
				require.Equal(t, want, got, "%s at %s: want %s to %s", s, now.Time(), want[0].Time(), want[1].Time())
			}
		}
	}
}

// change is an offset from UTC in seconds, and the instant since which it holds.
type change struct{ since, offset int64 }

// offsetsOf lists the offsets of a zone in the years of the test.
func offsetsOf(loc *time.Location) []change {
	offsetAt := func(sec int64) int64 {
		_, offset := time.Unix(sec, 0).In(loc).Zone()
		return int64(offset)
	}
	from := time.Date(firstYear-1, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	to := time.Date(lastYear, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	offsets := []change{{from, offsetAt(from)}}
	for sec := from; sec < to; sec += 3600 {
		offset := offsetAt(sec + 3600)
		if offset == offsets[len(offsets)-1].offset {
			continue
		}
		before, after := sec, sec+3600
		for after-before > 1 {
			if middle := (before + after) / 2; offsetAt(middle) == offset {
				after = middle
			} else {
				before = middle
			}
		}
		offsets = append(offsets, change{after, offset})
	}
	return append(offsets, change{since: to})
}

type date struct{ year, month, day, weekday int }

func daysIn(year, month int) int {
	switch {
	case month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0):
		return 29
	case month == 2:
		return 28
	case month == 4 || month == 6 || month == 9 || month == 11:
		return 30
	}
	return 31
}

// wallTimes lists the wall times, in seconds as if in UTC, at which periods start.
func wallTimes(starts func(date) bool, timeOfDay int64) (walls []int64) {
	d := date{1970, 1, 1, 4}
	for wall := timeOfDay; d.year < lastYear; wall += day {
		if starts(d) {
			walls = append(walls, wall)
		}
		d.weekday = (d.weekday + 1) % 7
		if d.day++; d.day > daysIn(d.year, d.month) {
			d.day = 1
			if d.month++; d.month > 12 {
				d.month = 1
				d.year++
			}
		}
	}
	return walls
}

// firstShown returns the instants at which the zone's clock shows each wall time, or a later one, for the first time.
// It leaves out periods without any instant.
func firstShown(offsets []change, walls []int64) (instants []int64) {
	for i, now := range offsets[:len(offsets)-1] {
		until := offsets[i+1].since
		for len(walls) > 0 && walls[0] < until+now.offset {
			instants = append(instants, max(now.since, walls[0]-now.offset))
			walls = walls[1:]
		}
	}
	return slices.Compact(instants)
}
