// Package cli runs the subcommands of the program velocity: those of packages admin and policies.
//
// Serving, which is what the program does without arguments, is not part of this package: see cmd/api.
package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/cli/admin"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/cli/policies"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// Run runs the command that args begin with, and returns the exit code. There must be an argument. version is what
// `velocity version` prints.
func Run(ctx context.Context, args []string, version string, s command.Streams) int {
	name, rest := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		return s.Exit("", printHelp(s.Out, rest))
	case "version", "-version", "--version":
		err := command.NoArguments(rest)
		if err == nil {
			_, _ = fmt.Fprintln(s.Out, version)
		}
		return s.Exit("", err)
	}
	c, err := find(name)
	if err != nil {
		return s.Exit("", err)
	}
	return c.Execute(ctx, rest, s)
}

// commands lists the commands, in the order of the help text.
func commands() []*command.Command {
	return []*command.Command{
		&admin.Healthcheck, &policies.Validate, &policies.Explain, &policies.Simulate, &admin.Status, &admin.Top, &admin.Inspect, &admin.Reset,
		&admin.Override,
	}
}

func find(name string) (*command.Command, error) {
	var names []string
	for _, c := range commands() {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	err := fmt.Errorf("unknown command %q", name)
	if nearest := policyfile.Nearest(name, names); nearest != "" {
		err = fmt.Errorf("%w (did you mean %s?)", err, nearest)
	}
	return nil, command.UsageError{Err: err}
}

// printHelp prints the help of the command that args name, or that of the program.
func printHelp(w io.Writer, args []string) error {
	if len(args) > 1 {
		return command.NoArguments(args[1:])
	}
	if len(args) == 0 || args[0] == "help" || args[0] == "version" {
		printUsage(w)
		return nil
	}
	c, err := find(args[0])
	if err == nil {
		c.PrintHelp(w)
	}
	return err
}

func printUsage(w io.Writer) {
	_, _ = io.WriteString(w, "Velocity, a distributed API rate limiter.\n\nUsage:\n")
	list := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(list, "  velocity\tserve until SIGTERM or SIGINT; a second one ends at once")
	for _, c := range commands() {
		_, _ = fmt.Fprintf(list, "  %s\t%s\n", strings.TrimSpace("velocity "+c.Name+" "+c.Args), c.Purpose)
	}
	_, _ = fmt.Fprintln(list, "  velocity help [COMMAND]\tprint this text, or the help of one command (also -h)")
	_, _ = fmt.Fprintln(list, "  velocity version\tprint version, commit, compiler and version of the time zones (also -version)")
	_ = list.Flush()
	_, _ = io.WriteString(w, `
Exit codes: 0 done, 1 failed, 2 wrong usage or settings.

Settings are environment variables; one that is set but empty counts as not set:

`)
	settings.WriteTable(w)
}
