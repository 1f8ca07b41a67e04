package domain_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestParseRate(t *testing.T) {
	cases := []struct {
		in     string
		refill domain.Tokens
		per    time.Duration
	}{
		{"5/s", 5, time.Second},
		{"100/m", 100, time.Minute},
		{"1000/h", 1000, time.Hour},
		{"10000/24h", 10_000, 24 * time.Hour},
		{"3/250ms", 3, 250 * ms},
		{"1/us", 1, us},
		{"1/ms", 1, ms},
		{"1/1µs", 1, us},
		{"1/1h30m", 1, 90 * time.Minute},
		{"1/.5s", 1, 500 * ms},
		{"1/1.5s", 1, 1500 * ms},
		{"007/s", 7, time.Second},
		{"0/0", 0, 0}, // ranges are NewBucket's business
		{"9223372036854775807/9223372036854775807ns", 1<<63 - 1, 1<<63 - 1},
	}
	for _, c := range cases {
		refill, per, err := domain.ParseRate(c.in)
		require.NoError(t, err, c.in)
		assert.Equal(t, c.refill, refill, c.in)
		assert.Equal(t, c.per, per, c.in)
	}
}

func TestParseRate_refusesAnythingElse(t *testing.T) {
	for _, in := range []string{
		"", "/", "5", "5/", "/s", "s/5", "5/5", "5 /s", "5/ s", " 5/s", "5/s ", "5/1 s", "5s", "5/d", "5/S", "5/1", "5//s",
		"5/s/s", "-5/s", "+5/s", "5/-1s", "5/+1s", "5/-s", "5/h30m", "5/s1h", "1.5/s", "1e3/s", "0x5/s", "1_000/s",
		"9223372036854775808/s", "1/9223372036854775808ns", "1/2562048h", "5/\x00s", "٥/s", "NaN/s", "5/Infs",
	} {
		_, _, err := domain.ParseRate(in)
		assert.True(t, isFieldError(err, domain.ErrInvalidLimit, "rate"), "%q: %v", in, err)
	}
}

func TestParse_saysHowAUnitIsWritten(t *testing.T) {
	for in, want := range map[string]string{
		"5/d": "5/24h", "1000/day": "1000/24h", "5/7d": "5/168h", "5/Week": "5/168h", "9/sec": "9/s", "9/10min": "9/10m", "1/hour": "1/h", "2/2hrs": "2/2h",
	} {
		_, _, err := domain.ParseRate(in)
		require.EqualError(t, err, "rate: "+strconv.Quote(in)+": must be "+want+": durations have the units us, ms, s, m and h")
		_, _, err = domain.ParseRate(want)
		require.NoError(t, err)
	}
	for _, in := range []string{"5/month", "5/0d", "5/99999999d", "x/d", "5/d1", "5/-1d"} {
		_, _, err := domain.ParseRate(in)
		require.ErrorContains(t, err, "must be <tokens>/<duration>", in)
	}
}

func TestParseQuota(t *testing.T) {
	n, period, err := domain.ParseQuota("9223372036854775807/30 Days/x")
	require.NoError(t, err, "package calendar reads the period, and NewQuota checks the range")
	assert.Equal(t, domain.Tokens(1<<63-1), n)
	assert.Equal(t, "30 Days/x", period)

	const form = "must be <tokens>/<period>, as in 1000/day, 50000/month or 10000/24h"
	for in, want := range map[string]string{
		"": form, "/": form, "1000": form, "1000/": form, "/day": form, "1000 per day": form,
		"-1/day":                  `the tokens "-1" are not a whole number in range; ` + form,
		"1.5/day":                 `the tokens "1.5" are not a whole number in range; ` + form,
		" 1/day":                  `the tokens " 1" are not a whole number in range; ` + form,
		"9223372036854775808/day": `the tokens "9223372036854775808" are not a whole number in range; ` + form,
	} {
		_, _, err := domain.ParseQuota(in)
		assert.True(t, isFieldError(err, domain.ErrInvalidLimit, "quota"), in)
		require.EqualError(t, err, "quota: "+strconv.Quote(in)+": "+want)
	}
}

func TestFormatRate_usesTheLargestUnitThatKeepsItWhole(t *testing.T) {
	cases := map[time.Duration]string{
		24 * time.Hour:         "5/24h",
		time.Hour:              "5/h",
		90 * time.Minute:       "5/90m",
		time.Second:            "5/s",
		1500 * ms:              "5/1500ms",
		us:                     "5/us",
		1500 * time.Nanosecond: "5/1500ns",
		time.Nanosecond:        "5/1ns",
		0:                      "5/0ns",
	}
	for per, want := range cases {
		assert.Equal(t, want, domain.FormatRate(5, per))
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"500ms": 500 * ms, "60s": time.Minute, "1h30m": 90 * time.Minute, "0s": 0, ".5s": 500 * ms, "1us": us, "24h": 24 * time.Hour,
	} {
		got, err := domain.ParseDuration("lease", s)
		require.NoError(t, err, s)
		assert.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "0", "60", "1.5", "-1s", "+1s", "-0", "1d", "s", "60 s", "1e3s", "99999999999h"} {
		_, err := domain.ParseDuration("lease", s)
		require.EqualError(t, err, "lease: "+strconv.Quote(s)+": must be a duration with a unit and no sign, as in 500ms, 60s or 1h30m")
		require.ErrorIs(t, err, domain.ErrInvalidLimit)
	}
	_, err := domain.ParseDuration("lease", "1ns")
	require.EqualError(t, err, `lease: "1ns": must be in whole microseconds`)
}

func TestFormatDuration_usesTheLargestUnitThatKeepsItWhole(t *testing.T) {
	for d, want := range map[time.Duration]string{
		24 * time.Hour: "24h", time.Hour: "1h", 90 * time.Minute: "90m", 90 * time.Second: "90s", 1_000_003 * us: "1000003us",
	} {
		assert.Equal(t, want, domain.FormatDuration(d))
	}
}

func TestFormatRate_isTheInverseOfParseRate(t *testing.T) {
	units := []time.Duration{1, us, ms, time.Second, time.Minute, time.Hour}
	rapid.Check(t, func(t *rapid.T) {
		refill := domain.Tokens(rapid.Int64Min(0).Draw(t, "refill"))
		unit := rapid.SampledFrom(units).Draw(t, "unit")
		per := unit * time.Duration(rapid.Int64Range(0, (1<<63-1)/int64(unit)).Draw(t, "per"))
		gotRefill, gotPer, err := domain.ParseRate(domain.FormatRate(refill, per))
		require.NoError(t, err)
		require.Equal(t, refill, gotRefill)
		require.Equal(t, per, gotPer)
	})
}
