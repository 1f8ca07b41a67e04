// Command api is the program velocity: a rate limiting service, and the subcommands of package cli. This package composes
// the service; no other package imports every adapter.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/velocity-limiter/velocity/internal/cli"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/settings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal has its default effect, and ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the subcommand that args name, or serves until ctx ends. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	streams := command.Streams{In: os.Stdin, Out: stdout, Err: stderr}
	if len(args) > 0 {
		return cli.Run(ctx, args, versionLine(), streams)
	}
	cfg, err := settings.Load()
	if err != nil {
		return streams.WrongSettings(err)
	}
	return serve(ctx, cfg, streams)
}
