package command

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestShortDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		24 * time.Hour: "24h", time.Hour + time.Minute: "1h1m", 10 * time.Minute: "10m", time.Minute + time.Second: "1m1s",
		10 * time.Second: "10s", 250 * time.Millisecond: "250ms", 10*time.Hour + time.Second: "10h0m1s",
	} {
		assert.Equal(t, want, ShortDuration(d))
	}
}

func TestPrintable_nothingActsOnATerminal(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"alice": "alice", "192.0.2.1": "192.0.2.1", "a b": "a b", "a\tb": `"a\tb"`, "\x1b[2J": `"\x1b[2J"`, "ä": "ä", "\xff": `"\xff"`,
	} {
		assert.Equal(t, want, Printable(s))
	}
}

func TestEscaped_showsAllButCharactersThatActOnATerminal(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		`"GET / HTTP/1.1" 200`: `"GET / HTTP/1.1" 200`, `"\x16\x03" 400`: `"\x16\x03" 400`, "\x1b[2J": `\x1b[2J`, "a\tb": `a\tb`, "\xff": `\xff`, "ä": "ä",
	} {
		assert.Equal(t, want, Escaped(s))
	}
}
