package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/mattn/go-isatty"
)

const resetUsage = `Usage: api reset [-policy NAME] [-source ip] [-yes] CLIENT

Shows the buckets of one client and makes them full, after asking; without a terminal to ask at, -yes must say so.
` + adminUsageEnd

func runReset(ctx context.Context, args []string, s streams) int {
	f := newFlags("reset", resetUsage)
	yes := f.Bool("yes", false, "do not ask")
	var of clientCommand
	c, code, done := of.parse(f, args, s)
	if done {
		return code
	}
	if !*yes && !isTerminal(s.in) {
		return s.misuse(f.Name(), errors.New("there is no terminal to ask at: say -yes"))
	}
	var report bucketReport
	if _, err := c.buckets(ctx, &of, &report); err != nil {
		return s.fail(err)
	}
	if !*yes {
		printReport(s.err, &report)
		if !confirmed(s.in, s.err, "\nMake these buckets full? [y/N] ") {
			return s.fail(errors.New("not reset"))
		}
	}
	if _, err := c.ask(ctx, http.MethodDelete, of.path()); err != nil {
		return s.fail(err)
	}
	if of.json {
		printJSON(s.out, []byte(`{"reset":true}`))
	} else {
		_, _ = fmt.Fprintf(s.out, "Reset: every bucket of %s under %s, by %s, is full.\n", printable(of.key), of.policy, report.Source)
		printUntouched(s.out, &report)
	}
	return exitOK
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// confirmed asks, and takes nothing but a yes for one.
func confirmed(in io.Reader, out io.Writer, question string) bool {
	_, _ = io.WriteString(out, question)
	line, _ := bufio.NewReader(in).ReadString('\n') // an end is no yes
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true
	}
	return false
}
