package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/velocity-limiter/velocity/internal/adapters/accesslog"
)

const progressInterval = 100 * time.Millisecond

// showProgress draws a bar while logs are read, if out is a terminal. The function that it returns takes the bar away.
func showProgress(ctx context.Context, out io.Writer, logs *accesslog.Logs) (stop func()) {
	file, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func() {}
	}
	_, total := logs.Progress()
	if total == 0 {
		total = -1 // a pipe: the bar only shows that something goes on
	}
	bar := progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(out), progressbar.OptionSetDescription("reading"), progressbar.OptionShowBytes(true),
		progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(progressInterval), progressbar.OptionFullWidth(),
		progressbar.OptionSetSpinnerChangeInterval(0)) // its spinner would turn on a goroutine that races with ours
	ctx, cancel := context.WithCancel(ctx)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				_ = bar.Clear() // the terminal is the user's
				return
			case <-tick.C:
				read, _ := logs.Progress()
				_ = bar.Set64(read) // likewise
			}
		}
	}()
	return func() {
		cancel()
		<-finished
	}
}
