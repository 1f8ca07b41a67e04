// Command scoreboard measures what docs/reliability.md promises, row by row, and prints the rows as a table.
//
// Each row is one claim. What it measures is done by tests: the command runs them, with exact times, reads the figures
// that they keep (package measure) and compares them with the row's bar. A row whose tests cannot run says so, and why.
// In a file, rows that are not measured keep what stands there. The exit status speaks of the measured ones alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	rows := flag.String("rows", "", "comma list of the rows to measure, R01,R05; empty: all")
	soak := flag.Duration("soak", 150*time.Second, "how long the soak of R01, R02, R04, R07 and R18 lasts")
	fuzz := flag.String("fuzz", "", "fuzz each target for so long (go test -fuzztime) for R23; empty: R23 is not measured")
	out := flag.String("out", "", "replace the measured rows of the table in this Markdown file, after each of them")
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
	rows, err := choose(scoreboard, wanted, fuzz != "")
	if err != nil {
		return err
	}
	if out != "" {
		if _, err := replaceRows(out, nil); err != nil { // before minutes are spent
			return err
		}
	}
	b := &bench{ctx: ctx, folder: folder, soak: soak, fuzz: fuzz, ran: map[string]error{}}
	began := time.Now()
	table, failures := "", []error{}
	var results []result
	for _, r := range rows {
		res := b.measure(r)
		if ctx.Err() != nil {
			return ctx.Err() // what it says of the row means nothing
		}
		results = append(results, res)
		if res.verdict == failed {
			failures = append(failures, fmt.Errorf("%s failed", res.id))
		}
		if out == "" {
			table = markdown(results)
		} else if table, err = replaceRows(out, results); err != nil {
			return err
		}
	}
	fmt.Printf("\n%s\n%s", table, times(results, time.Since(began)))
	return errors.Join(failures...)
}

// choose returns the rows of a comma list, in the scoreboard's order. Without one it is all that can be measured now.
func choose(all []row, wanted string, fuzz bool) ([]row, error) {
	if wanted == "" {
		return slices.DeleteFunc(slices.Clone(all), func(r row) bool { return r.id == fuzzedRow && !fuzz }), nil
	}
	var chosen []row
	names := strings.Split(wanted, ",")
	for _, name := range names {
		if !slices.ContainsFunc(all, func(r row) bool { return r.id == name }) {
			return nil, fmt.Errorf("-rows: %q: no such row", name)
		}
	}
	if slices.Contains(names, fuzzedRow) && !fuzz {
		return nil, fmt.Errorf("-rows: %s needs -fuzz, how long to fuzz each target", fuzzedRow)
	}
	for _, r := range all {
		if slices.Contains(names, r.id) {
			chosen = append(chosen, r)
		}
	}
	return chosen, nil
}
