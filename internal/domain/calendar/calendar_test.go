package calendar_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

func schedule(t testing.TB, period, zone, anchor string) *calendar.Schedule {
	t.Helper()
	s, err := calendar.Parse(period, zone, anchor)
	require.NoError(t, err)
	return s
}

func instant(t testing.TB, rfc3339 string) domain.Instant {
	t.Helper()
	at, err := time.Parse(time.RFC3339, rfc3339)
	require.NoError(t, err)
	return domain.InstantOf(at)
}

func TestAt(t *testing.T) {
	for _, c := range []struct{ name, period, zone, anchor, now, start, end, nextEnd string }{
		{
			"minute", "minute", "", "",
			"2026-01-15T08:09:59Z", "2026-01-15T08:09:00Z", "2026-01-15T08:10:00Z", "2026-01-15T08:11:00Z",
		},
		{
			"hour from an anchor", "hour", "", "2026-01-15T08:20:00Z",
			"2026-07-01T10:19:59Z", "2026-07-01T09:20:00Z", "2026-07-01T10:20:00Z", "2026-07-01T11:20:00Z",
		},
		{
			"day", "day", "", "",
			"2026-01-15T23:59:59Z", "2026-01-15T00:00:00Z", "2026-01-16T00:00:00Z", "2026-01-17T00:00:00Z",
		},
		{
			"day in a zone", "day", "Asia/Kathmandu", "",
			"2026-01-15T18:20:00Z", "2026-01-16T00:00:00+05:45", "2026-01-17T00:00:00+05:45", "2026-01-18T00:00:00+05:45",
		},
		{
			"week on Monday", "week", "", "",
			"2026-01-15T12:00:00Z", "2026-01-12T00:00:00Z", "2026-01-19T00:00:00Z", "2026-01-26T00:00:00Z",
		},
		{
			"week from an anchor: 7 dates, of 167 hours here", "week", "Europe/Berlin", "2026-01-15",
			"2026-03-29T12:00:00Z", "2026-03-26T00:00:00+01:00", "2026-04-02T00:00:00+02:00", "2026-04-09T00:00:00+02:00",
		},
		{
			"month with a leap day", "month", "", "",
			"2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z", "2028-04-01T00:00:00Z",
		},
		{
			"year", "year", "America/New_York", "",
			"2026-01-01T04:59:59Z", "2025-01-01T00:00:00-05:00", "2026-01-01T00:00:00-05:00", "2027-01-01T00:00:00-05:00",
		},
		{
			"year from an anchor", "year", "Europe/London", "2020-04-06",
			"2026-04-05T22:59:59Z", "2025-04-06T00:00:00+01:00", "2026-04-06T00:00:00+01:00", "2027-04-06T00:00:00+01:00",
		},
		{
			"anchor in the future", "month", "", "2030-06-15",
			"2026-01-15T00:00:00Z", "2026-01-15T00:00:00Z", "2026-02-15T00:00:00Z", "2026-03-15T00:00:00Z",
		},
		{
			"anchor with an offset: 00:30 on the 16th in Berlin", "month", "Europe/Berlin", "2026-01-15T15:30:00-08:00",
			"2026-07-15T12:00:00Z", "2026-06-16T00:30:00+02:00", "2026-07-16T00:30:00+02:00", "2026-08-16T00:30:00+02:00",
		},
		{
			"anchor before 1970, with a time of day", "month", "", "1969-03-15T08:00:00Z",
			"2026-07-15T07:59:59Z", "2026-06-15T08:00:00Z", "2026-07-15T08:00:00Z", "2026-08-15T08:00:00Z",
		},
		{
			"duration from the epoch", "7h", "", "",
			"1970-01-02T00:00:00Z", "1970-01-01T21:00:00Z", "1970-01-02T04:00:00Z", "1970-01-02T11:00:00Z",
		},
		{
			"duration before the epoch", "7h", "", "",
			"1969-12-31T23:59:59Z", "1969-12-31T17:00:00Z", "1970-01-01T00:00:00Z", "1970-01-01T07:00:00Z",
		},
		{
			"duration from an anchor with an offset", "24h", "", "2026-01-15T08:00:00+01:00",
			"2026-07-01T06:59:59Z", "2026-06-30T07:00:00Z", "2026-07-01T07:00:00Z", "2026-07-02T07:00:00Z",
		},
		{
			"Berlin: 23 hours", "day", "Europe/Berlin", "",
			"2026-03-29T12:00:00Z", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00", "2026-03-31T00:00:00+02:00",
		},
		{
			"Berlin: 25 hours", "day", "Europe/Berlin", "",
			"2026-10-25T22:59:59Z", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00", "2026-10-27T00:00:00+01:00",
		},
		{
			"Lord Howe: 24.5 hours", "day", "Australia/Lord_Howe", "",
			"2026-04-05T00:00:00Z", "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30", "2026-04-07T00:00:00+10:30",
		},
		{
			"Lord Howe: 23.5 hours", "day", "Australia/Lord_Howe", "",
			"2026-10-04T00:00:00Z", "2026-10-04T00:00:00+10:30", "2026-10-05T00:00:00+11:00", "2026-10-06T00:00:00+11:00",
		},
		{
			"Apia: no 30th", "day", "Pacific/Apia", "",
			"2011-12-30T09:59:59Z", "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00",
		},
		{
			"Apia: a month from the date that does not exist", "month", "Pacific/Apia", "2011-11-30",
			"2012-01-15T00:00:00Z", "2011-12-31T00:00:00+14:00", "2012-01-30T00:00:00+14:00", "2012-02-29T00:00:00+14:00",
		},
		{
			"Beirut: midnight does not exist", "day", "Asia/Beirut", "",
			"2026-03-29T12:00:00Z", "2026-03-29T01:00:00+03:00", "2026-03-30T00:00:00+03:00", "2026-03-31T00:00:00+03:00",
		},
		{
			"Sao Paulo: midnight becomes 23:00 of the day before, which has 25 hours", "day", "America/Sao_Paulo", "",
			"2018-02-18T02:30:00Z", "2018-02-17T00:00:00-02:00", "2018-02-18T00:00:00-03:00", "2018-02-19T00:00:00-03:00",
		},
		{
			"St. John's: 00:01 becomes 23:01, and the day has begun", "day", "America/St_Johns", "",
			"2006-10-28T23:30:00-03:30", "2006-10-29T00:00:00-02:30", "2006-10-30T00:00:00-03:30", "2006-10-31T00:00:00-03:30",
		},
		{
			"anchor's time of day does not exist: the end of the gap", "day", "Europe/Berlin", "2026-01-01T02:30:00+01:00",
			"2026-03-29T12:00:00Z", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00", "2026-03-31T02:30:00+02:00",
		},
		{
			"anchor's time of day comes twice: the first", "day", "Europe/Berlin", "2026-01-01T02:30:00+01:00",
			"2026-10-25T12:00:00Z", "2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00", "2026-10-27T02:30:00+01:00",
		},
		{
			"last day of a leap year, by the zone's rule for the future", "day", "Europe/Berlin", "",
			"2028-12-31T12:00:00Z", "2028-12-31T00:00:00+01:00", "2029-01-01T00:00:00+01:00", "2029-01-02T00:00:00+01:00",
		},
		{
			"before standard time: +00:53:28", "day", "Europe/Berlin", "",
			"1800-01-01T12:00:00Z", "1799-12-31T23:06:32Z", "1800-01-01T23:06:32Z", "1800-01-02T23:06:32Z",
		},
		{
			"Metlakatla in 1800: the largest offset, +15:13:42", "day", "America/Metlakatla", "",
			"1800-01-01T08:46:18Z", "1800-01-01T08:46:18Z", "1800-01-02T08:46:18Z", "1800-01-03T08:46:18Z",
		},
		{
			"Manila in 1800: the smallest offset, -15:56:08", "day", "Asia/Manila", "",
			"1800-01-01T15:56:07Z", "1799-12-31T15:56:08Z", "1800-01-01T15:56:08Z", "1800-01-02T15:56:08Z",
		},
		{
			"far in the future", "month", "Europe/Berlin", "",
			"2500-07-01T00:00:00Z", "2500-07-01T00:00:00+02:00", "2500-08-01T00:00:00+02:00", "2500-09-01T00:00:00+02:00",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			start, end, nextEnd := schedule(t, c.period, c.zone, c.anchor).At(instant(t, c.now))
			assert.Equal(t, instant(t, c.start).Time(), start.Time())
			assert.Equal(t, instant(t, c.end).Time(), end.Time())
			assert.Equal(t, instant(t, c.nextEnd).Time(), nextEnd.Time())
		})
	}
}

func TestAt_countsToTheMicrosecond(t *testing.T) {
	s := schedule(t, "day", "", "2026-01-15T08:00:00.000001Z")
	boundary := instant(t, "2026-03-01T08:00:00Z") + 1
	_, end, _ := s.At(boundary - 1)
	assert.Equal(t, boundary, end)
	start, _, _ := s.At(boundary)
	assert.Equal(t, boundary, start)
}

// A period that starts on a day which a month lacks starts on the last day of that month, and returns to the anchor's day.
func TestAt_anchorOnADayThatSomeMonthsLack(t *testing.T) {
	for _, c := range []struct {
		period, anchor, from string
		dates                []string
	}{
		{"month", "2026-01-31", "2027-12-31", []string{
			"2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30", "2028-05-31", "2028-06-30", "2028-07-31",
			"2028-08-31", "2028-09-30", "2028-10-31", "2028-11-30", "2028-12-31", "2029-01-31", "2029-02-28", "2029-03-31",
		}},
		{"month", "2030-05-30", "2025-12-30", []string{"2025-12-30", "2026-01-30", "2026-02-28", "2026-03-30", "2026-04-30"}},
		{"year", "2024-02-29", "2019-02-28", []string{
			"2019-02-28", "2020-02-29", "2021-02-28", "2022-02-28", "2023-02-28", "2024-02-29", "2025-02-28", "2026-02-28",
		}},
		{"year", "2096-02-29", "2099-02-28", []string{"2099-02-28", "2100-02-28", "2101-02-28", "2102-02-28", "2103-02-28", "2104-02-29"}},
	} {
		s := schedule(t, c.period, "", c.anchor)
		var dates []string
		for now := instant(t, c.from+"T00:00:00Z"); len(dates) < len(c.dates); _, now, _ = s.At(now) {
			start, _, _ := s.At(now)
			dates = append(dates, start.Time().Format(time.DateOnly))
		}
		assert.Equal(t, c.dates, dates, s)
	}
}

func TestSchedule_showsWhatWasConfigured(t *testing.T) {
	s := schedule(t, "month", "Europe/Berlin", "2026-01-15")
	assert.Equal(t, "month", s.Period())
	assert.Equal(t, "Europe/Berlin", s.Zone())
	assert.Equal(t, "2026-01-15", s.Anchor())
	assert.Equal(t, "month in Europe/Berlin from 2026-01-15", s.String())
	assert.Equal(t, "day in UTC", schedule(t, "day", "UTC", "").String())
	assert.Equal(t, "24h from 2026-01-15", schedule(t, "1440m", "", "2026-01-15").String(), "equal durations have one text")
	assert.Equal(t, "day", schedule(t, "day", "", "").String())
}
