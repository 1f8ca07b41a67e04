package command

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/velocity-limiter/velocity/internal/settings"
)

// The exit codes.
const (
	ExitOK     = 0
	ExitFailed = 1 // a port is taken, a server failed
	ExitUsage  = 2 // wrong arguments or settings
)

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// UsageError is an error in the arguments.
type UsageError struct{ Err error }

// SettingsError joins the violations of the settings.
type SettingsError struct{ Err error }

// ListError joins errors that each name a file. They are printed as they are, one per line.
type ListError struct{ Err error }

func (e UsageError) Error() string    { return e.Err.Error() }
func (e SettingsError) Error() string { return e.Err.Error() }
func (e ListError) Error() string     { return e.Err.Error() }

// NoArguments refuses arguments for a command that takes none.
func NoArguments(args []string) error {
	if len(args) > 0 {
		return UsageError{Err: fmt.Errorf("unknown argument %q", args[0])}
	}
	return nil
}

// Exit prints what went wrong in a command, and returns the exit code. The name is empty for the program itself.
func (s Streams) Exit(name string, err error) int {
	var (
		usage UsageError
		wrong SettingsError
		list  ListError
	)
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		program := strings.TrimSpace("velocity " + name)
		_, _ = fmt.Fprintf(s.Err, "%s: %v; see %s -h\n", program, err, program)
		return ExitUsage
	case errors.As(err, &wrong):
		return s.WrongSettings(wrong.Err)
	case errors.As(err, &list):
		for _, e := range settings.Violations(list.Err) {
			_, _ = fmt.Fprintln(s.Err, e)
		}
	default:
		_, _ = fmt.Fprintf(s.Err, "velocity: %v\n", err)
	}
	return ExitFailed
}

// WrongSettings prints the violations that err joins, one per line, and returns the exit code.
func (s Streams) WrongSettings(err error) int {
	_, _ = fmt.Fprintln(s.Err, "velocity: wrong settings; see velocity -h")
	for _, violation := range settings.Violations(err) {
		_, _ = fmt.Fprintf(s.Err, "  %v\n", violation)
	}
	return ExitUsage
}
