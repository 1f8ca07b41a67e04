// Command reliability measures the claims of docs/reliability.md and prints them as a table.
//
// Each row is one claim. The command runs the tests that measure it, with exact times, reads the figures that they
// write (package measure), and compares them with the row's target. A row whose tests cannot run here says why. In a
// file, the rows that are not measured keep their text. The exit status reports on the measured rows only.
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
	rows := flag.String("rows", "", "comma-separated rows to measure, such as R01,R05; empty: all")
	soak := flag.Duration("soak", 150*time.Second, "duration of the soak for R01, R02, R04, R07 and R18")
	fuzz := flag.String("fuzz", "", "duration of each fuzz target for R23 (go test -fuzztime); empty: R23 is not measured")
	out := flag.String("out", "", "write each measured row to the table in this Markdown file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *rows, *soak, *fuzz, *out); err != nil {
		fmt.Fprintln(os.Stderr, "reliability:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, wanted string, soak time.Duration, fuzz, out string) error {
	folder, err := os.MkdirTemp("", "velocity-reliability-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	rows, err := choose(claims, wanted, fuzz != "")
	if err != nil {
		return err
	}
	if out != "" {
		if _, err := replaceRows(out, nil); err != nil { // fail before the tests run for minutes
			return err
		}
	}
	r := &runner{ctx: ctx, folder: folder, soak: soak, fuzz: fuzz, ran: map[string]error{}}
	began := time.Now()
	table, failures := "", []error{}
	var results []result
	for _, row := range rows {
		res := r.measure(row)
		if ctx.Err() != nil {
			return ctx.Err() // the tests were interrupted
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

// choose returns the rows of a comma-separated list, in the order of the table. An empty list stands for all rows that
// can be measured: the fuzzed row only if fuzz is set.
func choose(all []row, wanted string, fuzz bool) ([]row, error) {
	if wanted == "" {
		return slices.DeleteFunc(slices.Clone(all), func(r row) bool { return r.id == fuzzedRow && !fuzz }), nil
	}
	names := strings.Split(wanted, ",")
	for _, name := range names {
		if !slices.ContainsFunc(all, func(r row) bool { return r.id == name }) {
			return nil, fmt.Errorf("-rows: %q: no such row", name)
		}
	}
	if slices.Contains(names, fuzzedRow) && !fuzz {
		return nil, fmt.Errorf("-rows: %s needs -fuzz, the duration of each fuzz target", fuzzedRow)
	}
	return slices.DeleteFunc(slices.Clone(all), func(r row) bool { return !slices.Contains(names, r.id) }), nil
}
