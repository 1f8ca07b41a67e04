// Command api is Velocity's service: HTTP on the data plane and the admin plane, over buckets in memory or in
// Redis. It alone knows every room, and puts them together.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // a port is taken, a server failed
	exitUsage  = 2 // wrong usage or settings
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // the second signal has its usual effect, and ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main, without what cannot be tested. It serves until ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		return withConfig(stderr, func(cfg config) int { return serve(ctx, cfg, stdout, stderr) })
	}
	if c, found := findCommand(args[0]); found {
		return c.run(ctx, args[1:], standard(stdout, stderr))
	}
	if len(args) > 1 {
		return wrongUsage(stderr, args[1])
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		printUsage(stdout)
		return exitOK
	case "-version", "--version", "version":
		_, _ = fmt.Fprintln(stdout, versionLine())
		return exitOK
	default:
		return wrongUsage(stderr, args[0])
	}
}

func wrongUsage(stderr io.Writer, arg string) int {
	_, _ = fmt.Fprintf(stderr, "api: unknown argument %q; see api -h\n", arg)
	return exitUsage
}

// withConfig runs a command that needs the settings, or lists what is wrong with them, one per line.
func withConfig(stderr io.Writer, command func(config) int) int {
	cfg, err := loadConfig()
	if err == nil {
		return command(cfg)
	}
	_, _ = fmt.Fprintln(stderr, "api: wrong settings; see api -h")
	for _, violation := range violations(err) {
		_, _ = fmt.Fprintf(stderr, "  %v\n", violation)
	}
	return exitUsage
}
