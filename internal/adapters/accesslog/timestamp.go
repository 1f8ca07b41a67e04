package accesslog

import (
	"bytes"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// parseTime parses a time in any of these forms: seconds, milliseconds, microseconds or nanoseconds since the epoch, with
// or without a fraction; 10/Oct/2000:13:55:36 -0700; and RFC 3339 with its variants (2000-10-10 13:55:36.123,
// 2000/10/10 13:55:36), which are UTC if they have no zone. It truncates to microseconds. It refuses times before 1970,
// which come from servers whose clock was not set.
func parseTime(b []byte) (domain.Instant, bool) {
	switch {
	case len(b) >= 20 && b[2] == '/':
		return parseLogTime(b)
	case len(b) >= 19 && (b[4] == '-' || b[4] == '/') && b[7] == b[4]:
		return parseISOTime(b)
	default:
		return parseEpoch(b)
	}
}

// parseLogTime parses the time of the Common Log Format, 10/Oct/2000:13:55:36 -0700.
func parseLogTime(b []byte) (domain.Instant, bool) {
	if len(b) < 20 || b[2] != '/' || b[6] != '/' || b[11] != ':' || b[14] != ':' || b[17] != ':' {
		return 0, false
	}
	month, ok := monthOf(b[3:6])
	if !ok {
		return 0, false
	}
	c := dateTime{year: digits(b[7:11]), month: month, day: digits(b[0:2]), hour: digits(b[12:14]), minute: digits(b[15:17])}
	c.second = digits(b[18:20])
	return c.instant(b[20:])
}

// parseISOTime parses 2000-10-10T13:55:36.123-07:00 and its variants.
func parseISOTime(b []byte) (domain.Instant, bool) {
	if (b[10] != 'T' && b[10] != 't' && b[10] != ' ') || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	c := dateTime{year: digits(b[0:4]), month: digits(b[5:7]), day: digits(b[8:10]), hour: digits(b[11:13])}
	c.minute, c.second = digits(b[14:16]), digits(b[17:19])
	return c.instant(b[19:])
}

// dateTime is a date and a time of day. A part that was not a number is -1.
type dateTime struct{ year, month, day, hour, minute, second int }

// instant returns the time, whose optional fraction and zone are still to be parsed. It refuses dates that do not exist, such
// as 30 February. A leap second counts as the second after it.
func (c dateTime) instant(rest []byte) (domain.Instant, bool) {
	if c.year < 0 || c.month < 1 || c.month > 12 || c.day < 1 || c.hour < 0 || c.hour > 23 ||
		c.minute < 0 || c.minute > 59 || c.second < 0 || c.second > 60 {
		return 0, false
	}
	micros, zone, known := parseFraction(rest)
	east, ok := parseZone(zone)
	if !known || !ok {
		return 0, false
	}
	t := time.Date(c.year, time.Month(c.month), c.day, c.hour, c.minute, c.second, 0, time.UTC)
	if c.second < 60 && t.Day() != c.day {
		return 0, false
	}
	at := (t.Unix()-east)*1e6 + micros
	return domain.Instant(at), at >= 0
}

// parseFraction parses an optional fraction such as ".123", and returns what follows it.
func parseFraction(b []byte) (micros int64, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '.' && b[0] != ',' {
		return 0, b, true
	}
	b = b[1:]
	n, unit := 0, int64(100_000)
	for ; n < len(b) && isDigit(b[n]); n++ {
		micros += int64(b[n]-'0') * unit
		unit /= 10
	}
	return micros, b[n:], n > 0
}

// parseZone parses Z, -0700 or -07:00, also after a space. It returns seconds east of UTC.
func parseZone(b []byte) (east int64, ok bool) {
	b = bytes.TrimLeft(b, " ")
	if len(b) == 0 || len(b) == 1 && (b[0] == 'Z' || b[0] == 'z') {
		return 0, true
	}
	if len(b) == 6 && b[3] == ':' {
		b = []byte{b[0], b[1], b[2], b[4], b[5]}
	}
	if len(b) != 5 || b[0] != '+' && b[0] != '-' {
		return 0, false
	}
	hours, minutes := digits(b[1:3]), digits(b[3:5])
	if hours < 0 || hours > 23 || minutes < 0 || minutes > 59 {
		return 0, false
	}
	east = int64(hours*3600 + minutes*60)
	if b[0] == '-' {
		east = -east
	}
	return east, true
}

// parseEpoch parses a number. Its size determines the unit: until the year 5138, seconds have at most 11 digits.
func parseEpoch(b []byte) (domain.Instant, bool) {
	whole, fraction, _ := bytes.Cut(b, []byte{'.'})
	if len(whole) == 0 || len(whole) > 19 {
		return 0, false
	}
	n, err := strconv.ParseInt(text(whole), 10, 64)
	if err != nil || n < 0 {
		return 0, false
	}
	var micros int64
	switch {
	case n < 1e11: // seconds
		n, micros = n*1e6, 100_000
	case n < 1e14: // milliseconds
		n, micros = n*1e3, 100
	case n < 1e17: // microseconds
	default:
		n /= 1e3
	}
	for _, c := range fraction {
		if !isDigit(c) {
			return 0, false
		}
		n += int64(c-'0') * micros
		micros /= 10
	}
	return domain.Instant(n), true
}

// monthOf parses the English abbreviation of a month, which servers write in every locale.
func monthOf(b []byte) (int, bool) {
	const names = "JanFebMarAprMayJunJulAugSepOctNovDec"
	for i := 0; i < len(names); i += 3 {
		if text(b) == names[i:i+3] {
			return i/3 + 1, true
		}
	}
	return 0, false
}
