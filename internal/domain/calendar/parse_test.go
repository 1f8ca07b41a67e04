package calendar_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

func TestParse_saysWhatIsWrong(t *testing.T) {
	const periodForm = `must be minute, hour, day, week, month or year, or a duration in h, m and s, as in 168h for 7 days`
	const anchorForm = `must be a date, as in 2026-01-15, or a time with its offset, as in 2026-01-15T08:00:00+01:00`
	const zoneForm = `only a quota per day, week, month or year can have a zone`
	noZone := `is not a name of the time-zone database ` + calendar.ZonesVersion()
	for _, c := range []struct{ period, zone, anchor, want string }{
		{"", "", "", `quota: "": ` + periodForm},
		{"m", "", "", `quota: "m": write minute or month`},
		{"s", "", "", `quota: "s": write 1s`},
		{"h", "", "", `quota: "h": write hour`},
		{"d", "", "", `quota: "d": write day`},
		{"w", "", "", `quota: "w": write week`},
		{"y", "", "", `quota: "y": write year`},
		{"1d", "", "", `quota: "1d": write day`},
		{"1 month", "", "", `quota: "1 month": write month`},
		{"Day", "", "", `quota: "Day": write day`},
		{"days", "", "", `quota: "days": write day`},
		{"daily", "", "", `quota: "daily": write day`},
		{"min", "", "", `quota: "min": write minute`},
		{"hrs", "", "", `quota: "hrs": write hour`},
		{"weeks", "", "", `quota: "weeks": write week`},
		{"mo", "", "", `quota: "mo": write month`},
		{"annually", "", "", `quota: "annually": write year`},
		{"seconds", "", "", `quota: "seconds": write 1s`},
		{"ms", "", "", `quota: "ms": ` + periodForm},
		{"7d", "", "", `quota: "7d": ` + periodForm},
		{"quarter", "", "", `quota: "quarter": ` + periodForm},
		{"+24h", "", "", `quota: "+24h": ` + periodForm},
		{"999ms", "", "", `quota: "999ms": a duration must be from 1s to 876000h, which is 100 years`},
		{"-24h", "", "", `quota: "-24h": a duration must be from 1s to 876000h, which is 100 years`},
		{"876000h1us", "", "", `quota: "876000h1us": a duration must be from 1s to 876000h, which is 100 years`},
		{"1s1ns", "", "", `quota: "1s1ns": a duration must be in whole microseconds`},

		{"24h", "Europe/Berlin", "", `zone: "Europe/Berlin": ` + zoneForm},
		{"hour", "UTC", "", `zone: "UTC": ` + zoneForm},
		{"minute", "Nowhere", "", `zone: "Nowhere": ` + zoneForm},
		{"day", "Europe/Berlun", "", `zone: "Europe/Berlun": ` + noZone},
		{"day", "Local", "", `zone: "Local": ` + noZone},
		{"day", "../etc/passwd", "", `zone: "../etc/passwd": ` + noZone},
		{"day", " ", "", `zone: " ": ` + noZone},
		{"day", "europe/berlin", "", `zone: "europe/berlin": ` + noZone + `: write Europe/Berlin`},
		{"day", "new york", "", `zone: "new york": ` + noZone + `: write America/New_York`},
		{
			"day", "Indianapolis", "",
			`zone: "Indianapolis": ` + noZone + `: write America/Indiana/Indianapolis or America/Indianapolis`,
		},

		{"day", "", "tomorrow", `anchor: "tomorrow": ` + anchorForm},
		{"day", "", "2026-1-15", `anchor: "2026-1-15": ` + anchorForm},
		{"day", "", "15.01.2026", `anchor: "15.01.2026": ` + anchorForm},
		{"day", "", "2026-02-30", `anchor: "2026-02-30": day out of range; ` + anchorForm},
		{"day", "", "2026-01-15T08:00:00", `anchor: "2026-01-15T08:00:00": ` + anchorForm},
		{"day", "", "2026-01-15T8:00:00Z", `anchor: "2026-01-15T8:00:00Z": ` + anchorForm},
		{"day", "", "2026-01-15T08:00:00,5Z", `anchor: "2026-01-15T08:00:00,5Z": ` + anchorForm},
		{"day", "", "2026-01-15 08:00:00Z", `anchor: "2026-01-15 08:00:00Z": ` + anchorForm},
		{"day", "", "2026-01-15T24:00:00Z", `anchor: "2026-01-15T24:00:00Z": hour out of range; ` + anchorForm},
		{"day", "", "2026-01-15T08:00:00.0000001Z", `anchor: "2026-01-15T08:00:00.0000001Z": must be in whole microseconds`},

		{"d", "Nowhere", "x", `quota: "d": write day` + "\n" +
			`zone: "Nowhere": ` + noZone + "\n" + `anchor: "x": ` + anchorForm},
	} {
		s, err := calendar.Parse(c.period, c.zone, c.anchor)
		require.ErrorIs(t, err, domain.ErrInvalidLimit, "%q %q %q", c.period, c.zone, c.anchor)
		assert.Nil(t, s)
		assert.EqualError(t, err, c.want)
	}
}

func TestParse_joinsAFieldErrorForEachField(t *testing.T) {
	_, err := calendar.Parse("d", "Nowhere", "x")
	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok)
	var fields []string
	for _, e := range joined.Unwrap() {
		var field *domain.FieldError
		require.ErrorAs(t, e, &field)
		fields = append(fields, field.Field)
	}
	assert.Equal(t, []string{"quota", "zone", "anchor"}, fields)
}

func TestParse_acceptsTheBoundsOfDurations(t *testing.T) {
	for _, period := range []string{"1s", "1.000001s", "876000h", "1h30m"} {
		_, err := calendar.Parse(period, "", "")
		assert.NoError(t, err, period)
	}
}
