package command

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// NewTable returns a table with this heading, whose columns are separated by tabs. Flush prints it.
func NewTable(w io.Writer, heading string) *tabwriter.Writer {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, heading)
	return table
}

// Plural writes a number with the word for one or for many.
func Plural[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// ShortDuration writes a duration without trailing parts that are zero: 24h, 1h30m.
func ShortDuration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if len(text) > len(zero) && text[len(text)-len(zero):] == zero {
			text = text[:len(text)-len(zero)+1]
		}
	}
	return text
}

// Printable quotes a text with characters that would act on the terminal or break a table.
func Printable(s string) string {
	quoted := strconv.Quote(s)
	if plain := quoted[1 : len(quoted)-1]; plain != s {
		return quoted
	}
	return s
}

// Escaped writes characters that would act on the terminal as Go does, and leaves quotes and backslashes as they are.
func Escaped(s string) string {
	quoted := strconv.Quote(s)
	return unquoter.Replace(quoted[1 : len(quoted)-1])
}

var unquoter = strings.NewReplacer(`\"`, `"`, `\\`, `\`)

// IsTerminal reports whether a stream is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Stamp writes a time as RFC 3339 in UTC, to the second; "-" for none.
func Stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}
