package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The markers of the table in a Markdown file.
const (
	beginMarker = "<!-- scoreboard: begin -->\n"
	endMarker   = "<!-- scoreboard: end -->\n"
)

const tableHead = "| id | claim | measured | bar | |\n| --- | --- | --- | --- | --- |\n"

func (r *result) markdown() string {
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", r.id, r.claim, strings.ReplaceAll(r.measured, "|", "/"), r.bar, r.verdict)
}

func markdown(results []result) string {
	text := tableHead
	for i := range results {
		text += results[i].markdown()
	}
	return text
}

// replaceRows puts what was measured into the table of a Markdown file. The other rows keep what stands there. It
// returns the table.
func replaceRows(path string, measured []result) (table string, err error) {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return "", err
	}
	before, rest, begun := strings.Cut(string(text), beginMarker)
	old, after, ended := strings.Cut(rest, endMarker)
	if !begun || !ended {
		return "", fmt.Errorf("%s has no markers for the table", path)
	}
	table = merge(scoreboard, old, measured)
	return table, os.WriteFile(path, []byte(before+beginMarker+table+endMarker+after), 0o600)
}

// merge is a table of all rows, in their order, that were measured now or stand in the old one.
func merge(all []row, old string, measured []result) string {
	lines := map[string]string{}
	for line := range strings.Lines(old) {
		if cells := strings.Split(line, "|"); len(cells) > 1 {
			lines[strings.TrimSpace(cells[1])] = line
		}
	}
	for i := range measured {
		lines[measured[i].id] = measured[i].markdown()
	}
	text := tableHead
	for _, r := range all {
		text += lines[r.id]
	}
	return text
}

// times says how long each row took. What several rows share is counted by the first of them.
func times(results []result, total time.Duration) string {
	text := ""
	for i := range results {
		text += fmt.Sprintf("%s %4.0f s\n", results[i].id, results[i].took.Seconds())
	}
	return text + fmt.Sprintf("all %4.0f s\n", total.Seconds())
}
