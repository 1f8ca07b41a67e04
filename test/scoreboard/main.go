// Command scoreboard measures what docs/reliability.md promises, row by row, and prints the rows as a table.
//
// Each row is one claim. What it measures is done by tests: the command runs them, with exact times, reads the figures
// that they keep (package measure) and compares them with the row's bar. A row whose tests cannot run says so, and why.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	rows := flag.String("rows", "", "comma list of the rows to measure, R01,R05; empty: all")
	soak := flag.Duration("soak", 5*time.Minute, "how long the soak of R01, R02, R04, R07 and R18 lasts")
	fuzz := flag.String("fuzz", "", "fuzz each target for so long (go test -fuzztime) for R23; empty: R23 is not run")
	out := flag.String("out", "", "write the table into this Markdown file, between its markers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *rows, *soak, *fuzz, *out); err != nil {
		fmt.Fprintln(os.Stderr, "scoreboard:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, wanted string, soak time.Duration, fuzz, out string) error {
	folder, err := os.MkdirTemp("", "velocity-scoreboard-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	rows, err := choose(scoreboard, wanted)
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, folder: folder, soak: soak, fuzz: fuzz, ran: map[string]error{}}
	var results []result
	for _, r := range rows {
		results = append(results, b.measure(r))
	}
	table := markdown(results)
	fmt.Print("\n" + table)
	if out != "" {
		if err := writeBetweenMarkers(out, table); err != nil {
			return err
		}
	}
	if failed := slices.IndexFunc(results, func(r result) bool { return r.verdict == failed }); failed >= 0 {
		return fmt.Errorf("%s failed", results[failed].id)
	}
	return nil
}

// choose returns the rows of a comma list, in the scoreboard's order.
func choose(all []row, wanted string) ([]row, error) {
	if wanted == "" {
		return all, nil
	}
	var chosen []row
	names := strings.Split(wanted, ",")
	for _, name := range names {
		if !slices.ContainsFunc(all, func(r row) bool { return r.id == name }) {
			return nil, fmt.Errorf("-rows: %q: no such row", name)
		}
	}
	for _, r := range all {
		if slices.Contains(names, r.id) {
			chosen = append(chosen, r)
		}
	}
	return chosen, nil
}

// The markers of the table in a Markdown file.
const (
	beginMarker = "<!-- scoreboard: begin -->\n"
	endMarker   = "<!-- scoreboard: end -->\n"
)

func writeBetweenMarkers(path, table string) error {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return err
	}
	before, rest, begun := strings.Cut(string(text), beginMarker)
	_, after, ended := strings.Cut(rest, endMarker)
	if !begun || !ended {
		return fmt.Errorf("%s has no markers for the table", path)
	}
	return os.WriteFile(path, []byte(before+beginMarker+table+endMarker+after), 0o600)
}

func markdown(results []result) string {
	var b strings.Builder
	b.WriteString("| id | claim | measured | bar | |\n| --- | --- | --- | --- | --- |\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.id, r.claim, r.measured, r.bar, r.verdict)
	}
	return b.String()
}
