package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

const (
	usageHead = "Velocity, a distributed API rate limiter.\n\nUsage:\n"
	usageTail = `
Each command has a -h of its own.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings.

Settings are environment variables; one that is set but empty counts as not set:

`
)

func printUsage(w io.Writer) {
	_, _ = io.WriteString(w, usageHead)
	list := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(list, "  api\tserve until SIGTERM or SIGINT; a second one ends at once")
	for _, c := range commands() {
		_, _ = fmt.Fprintf(list, "  %s\t%s\n", strings.TrimSpace("api "+c.name+" "+c.args), c.purpose)
	}
	_, _ = fmt.Fprintln(list, "  api -h\tthis text\n  api -version\tversion, commit and compiler")
	_ = list.Flush()
	_, _ = io.WriteString(w, usageTail)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "  NAME\tDEFAULT\tMEANING")
	for _, s := range settingsOf(&config{}) {
		_, _ = fmt.Fprintf(table, "  %s\t%s\t%s\n", s.name, orDash(s.fallback), s.meaning)
	}
	_ = table.Flush()
}

// settingsMarkdown is the same table, as the README shows it.
func settingsMarkdown() string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n| --- | --- | --- |\n")
	for _, s := range settingsOf(&config{}) {
		fallback := "empty"
		if s.fallback != "" {
			fallback = "`" + s.fallback + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.name, fallback, escapeCell.Replace(s.meaning))
	}
	return b.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// escapeCell keeps a text from ending a cell of Markdown, or from being taken for HTML.
var escapeCell = strings.NewReplacer("|", `\|`, "<", `\<`)
