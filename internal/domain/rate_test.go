package domain_test

import (
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
		{"0/0", 0, 0}, // ranges are NewLimit's business
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

func TestFormatRate_usesTheLargestUnitThatKeepsItWhole(t *testing.T) {
	cases := map[time.Duration]string{
		24 * time.Hour:         "5/24h",
		time.Hour:              "5/h",
		90 * time.Minute:       "5/90m",
		time.Second:            "5/s",
		1500 * ms:              "5/1500ms",
		us:                     "5/us",
		1500 * time.Nanosecond: "5/1500ns",
		0:                      "5/0ns",
	}
	for per, want := range cases {
		assert.Equal(t, want, domain.FormatRate(5, per))
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
