// Package command has what all subcommands of the program velocity share: how they are declared and run, their exit codes and errors,
// and how they print.
package command

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Command is a subcommand of velocity.
type Command struct {
	// Name is what follows "velocity".
	Name string
	// Args are the arguments that follow the name, for the list of commands, and Purpose is a line about the command.
	Args, Purpose string
	// Usage, if set, stands for Args in the command's own help. Help follows it.
	Usage, Help string
	// Define defines the command's flags and returns what the command does once they have been parsed.
	Define func(f *flag.FlagSet) Action
}

// Action does what a command is for, given its arguments without the flags.
type Action func(ctx context.Context, args []string, s Streams) error

func (c *Command) parser() (*flag.FlagSet, Action) {
	f := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // run reports errors
	f.Usage = func() {}
	return f, c.Define(f)
}

func (c *Command) run(ctx context.Context, args []string, s Streams) error {
	f, act := c.parser()
	rest, err := parseFlags(f, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		c.printHelp(s.Out, f)
		return nil
	case err != nil:
		return UsageError{Err: err}
	}
	return act(ctx, rest, s)
}

// Execute runs the command with the arguments that follow its name, and returns the exit code.
func (c *Command) Execute(ctx context.Context, args []string, s Streams) int {
	return s.Exit(c.Name, c.run(ctx, args, s))
}

// PrintHelp prints the command's help.
func (c *Command) PrintHelp(w io.Writer) {
	f, _ := c.parser()
	c.printHelp(w, f)
}

func (c *Command) printHelp(w io.Writer, f *flag.FlagSet) {
	usage := strings.TrimSpace("velocity " + c.Name + " " + cmp.Or(c.Usage, c.Args))
	_, _ = fmt.Fprintf(w, "Usage: %s\n\n%s", usage, c.Help)
	var flags strings.Builder
	f.SetOutput(&flags)
	f.PrintDefaults()
	if flags.Len() > 0 {
		_, _ = io.WriteString(w, "\nFlags:\n"+flags.String())
	}
}

// parseFlags parses the flags, which may stand between the other arguments, and returns those. No flag stands after --.
func parseFlags(f *flag.FlagSet, args []string) (rest []string, err error) {
	var literal []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, literal = args[:i], args[i+1:]
	}
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		if f.NArg() == 0 {
			return append(rest, literal...), nil
		}
		rest, args = append(rest, f.Arg(0)), f.Args()[1:]
	}
}
