package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
)

// command is what the first argument may name.
type command struct {
	name string
	// args is what follows the name, for the list of commands, and purpose a line about it.
	args, purpose string
	// run returns the exit code.
	run func(ctx context.Context, args []string, io streams) int
}

// commands are those that take arguments of their own; each knows its own -h.
func commands() []command {
	return []command{
		{"healthcheck", "", "exit 0 if the process that these settings describe is alive", runHealthcheck},
		{"validate", "FILE", "check a policy file and print it as a table", runValidate},
		{"explain", "-policies FILE METHOD URL", "say which policy applies to a request, and why", runExplain},
		{"simulate", "-policies FILE LOG...", "replay access logs: who would have been denied?", runSimulate},
		{"status", "", "how a running service is: its state, its shards, what it has decided", runStatus},
		{"top", "", "the clients that a running service denied most, or heard most of", runTop},
		{"inspect", "[-policy NAME] CLIENT", "one client's buckets in a running service", runInspect},
		{"reset", "[-policy NAME] CLIENT", "make one client's buckets full", runReset},
	}
}

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// findCommand returns the command of this name.
func findCommand(name string) (command, bool) {
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		return command{}, false
	}
	return all[i], true
}

// fail says what went wrong, and is the exit code for it.
func (s streams) fail(err error) int {
	_, _ = fmt.Fprintf(s.err, "api: %v\n", err)
	return exitFailed
}

// misuse says what is wrong about a command's arguments, and is the exit code for it.
func (s streams) misuse(name string, err error) int {
	_, _ = fmt.Fprintf(s.err, "api %s: %v; see api %s -h\n", name, err, name)
	return exitUsage
}

// newFlags are the flags of a command. Its -h prints usage, and then the flags.
func newFlags(name, usage string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // parseFlags says what is wrong
	f.Usage = func() {
		_, _ = io.WriteString(f.Output(), usage)
		if hasFlags(f) {
			_, _ = io.WriteString(f.Output(), "\nFlags:\n")
			f.PrintDefaults()
		}
	}
	return f
}

func hasFlags(f *flag.FlagSet) bool {
	n := 0
	f.VisitAll(func(*flag.Flag) { n++ })
	return n > 0
}

// parseFlags reads a command's flags, which may stand between its other arguments, and returns those. Where done is set,
// the command is over with this exit code: its -h was asked for, or it was misused.
func parseFlags(f *flag.FlagSet, args []string, s streams) (rest []string, code int, done bool) {
	var literal []string
	if i := slices.Index(args, "--"); i >= 0 { // all that follows are no flags
		args, literal = args[:i], args[i+1:]
	}
	for {
		switch err := f.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			f.SetOutput(s.out)
			f.Usage()
			return nil, exitOK, true
		case err != nil:
			return nil, s.misuse(f.Name(), err), true
		case f.NArg() == 0:
			return append(rest, literal...), exitOK, false
		}
		rest, args = append(rest, f.Arg(0)), f.Args()[1:]
	}
}

// standard are the process's own streams, but for what a test captures.
func standard(stdout, stderr io.Writer) streams { return streams{os.Stdin, stdout, stderr} }
