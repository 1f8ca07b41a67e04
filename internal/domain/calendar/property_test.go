package calendar_test

import (
	"maps"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

// requireFollowing requires that the period that contains now lies between the one before and the one after it.
func requireFollowing(t require.TestingT, s *calendar.Schedule, now domain.Instant) {
	start, end, nextEnd := s.At(now)
	require.True(t, start <= now && now < end && end < nextEnd, "%s at %d: %d, %d, %d", s, now, start, end, nextEnd)
	nextStart, nextEndAgain, _ := s.At(end)
	require.Equal(t, end, nextStart, "%s at %d", s, now)
	require.Equal(t, nextEnd, nextEndAgain, "%s at %d", s, now)
	_, endBefore, nextEndBefore := s.At(start - 1)
	require.Equal(t, start, endBefore, "%s at %d", s, now)
	require.Equal(t, end, nextEndBefore, "%s at %d", s, now)
	again, _, _ := s.At(now)
	require.Equal(t, start, again, "%s at %d", s, now)
}

func TestAt_periodsFollowEachOther(t *testing.T) {
	names := slices.Sorted(maps.Keys(databaseFiles(t)))
	rapid.Check(t, func(t *rapid.T) {
		period := rapid.SampledFrom([]string{"minute", "hour", "day", "week", "month", "year", "90s", "1000003us", "24h", "876000h"}).Draw(t, "period")
		zone := ""
		switch period {
		case "day", "week", "month", "year":
			zone = rapid.SampledFrom(append(names, "")).Draw(t, "zone")
		}
		anchor := rapid.OneOf(
			rapid.Just(""),
			rapid.StringMatching(`[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])`),
			rapid.StringMatching(`(1[89]|20)[0-9]{2}-(01|03|05|07|08|10|12)-(29|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{6})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])`),
		).Draw(t, "anchor")
		s, err := calendar.Parse(period, zone, anchor)
		require.NoError(t, err)
		for range 20 {
			now := rapid.OneOf(
				rapid.Int64Range(0, 1<<53),                 // whatever a server's clock may say
				rapid.Int64Range(0, 100*366*86400_000_000), // 100 years
				rapid.Int64Range(-1<<59, 1<<59),
			).Draw(t, "now")
			requireFollowing(t, s, domain.Instant(now))
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range [][3]string{
		{"day", "Europe/Berlin", "2026-01-15"},
		{"month", "Pacific/Apia", "2011-12-30T08:00:00.123456-11:00"},
		{"year", "America/Sao_Paulo", "2024-02-29T00:00:00Z"},
		{"week", "", "0000-01-01"},
		{"1h30m", "", "9999-12-31T23:59:59.999999-23:59"},
		{"m", "Local", "2026-02-30"},
	} {
		for _, now := range []int64{0, 1<<53 - 1, -1 << 53, 1325239199_000000} {
			f.Add(seed[0], seed[1], seed[2], now)
		}
	}
	f.Fuzz(func(t *testing.T, period, zone, anchor string, now int64) {
		s, err := calendar.Parse(period, zone, anchor)
		if err != nil {
			require.ErrorIs(t, err, domain.ErrInvalidLimit)
			require.Nil(t, s)
			return
		}
		requireFollowing(t, s, domain.Instant(now%(1<<59)))
	})
}

func TestAt_answersForAnyInstant(t *testing.T) {
	for _, period := range []string{"1s", "day", "week", "month", "year", "876000h"} {
		s := schedule(t, period, "", "9999-12-31")
		for _, now := range []domain.Instant{math.MinInt64, math.MinInt64 + 1, -1 << 60, -1<<60 + 1, 1<<60 - 1, 1 << 60, math.MaxInt64} {
			start, end, nextEnd := s.At(now)
			assert.True(t, start < end && end < nextEnd, "%s at %d", s, now)
			inRange := min(max(now, -1<<60), 1<<60)
			assert.True(t, start <= inRange && inRange < end, "%s at %d", s, now)
		}
	}
}

func TestAt_isSafeForConcurrentUse(t *testing.T) {
	s := schedule(t, "day", "Europe/Berlin", "")
	from := instant(t, "2026-01-15T12:00:00Z")
	var calls sync.WaitGroup
	for i := range domain.Instant(8) {
		calls.Go(func() {
			for j := range domain.Instant(1000) {
				now := from + (i+j)%3*86400_000_000
				start, end, _ := s.At(now)
				if now < start || now >= end {
					t.Errorf("At(%d) = %d, %d", now, start, end)
				}
			}
		})
	}
	calls.Wait()
}
