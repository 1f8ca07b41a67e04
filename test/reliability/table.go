package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The markers around the table in a Markdown file.
const (
	beginMarker = "<!-- reliability: begin -->\n"
	endMarker   = "<!-- reliability: end -->\n"
)

const tableHead = "| id | claim | measured | target | |\n| --- | --- | --- | --- | --- |\n"

func (r *result) markdown() string {
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", r.id, r.claim, strings.ReplaceAll(r.measured, "|", "/"), r.target, r.verdict)
}

func markdown(results []result) string {
	text := tableHead
	for i := range results {
		text += results[i].markdown()
	}
	return text
}

// replaceRows writes the measured rows into the table of a Markdown file, and returns the table. Other rows keep their
// text.
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
	table = merge(claims, old, measured)
	return table, os.WriteFile(path, []byte(before+beginMarker+table+endMarker+after), 0o600)
}

// merge returns a table with the measured rows and the other rows of the old table, in the order of all.
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

// times lists how long each row took. A test that several rows share counts for the first of them.
func times(results []result, total time.Duration) string {
	text := ""
	for i := range results {
		text += fmt.Sprintf("%s %4.0f s\n", results[i].id, results[i].took.Seconds())
	}
	return text + fmt.Sprintf("all %4.0f s\n", total.Seconds())
}
