package command

import (
	"context"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

const progressInterval = 100 * time.Millisecond

// ShowProgress draws a progress bar while files are read, if out is a terminal. progress returns how many bytes have been read,
// of how many; 0 if that is not known. The function that it returns removes the bar.
func ShowProgress(ctx context.Context, out io.Writer, what string, progress func() (read, total int64)) (stop func()) {
	if !IsTerminal(out) {
		return func() {}
	}
	_, total := progress()
	if total == 0 {
		total = -1 // unknown, as for a pipe: the bar shows activity only
	}
	bar := progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(what), progressbar.OptionShowBytes(true),
		progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(progressInterval), progressbar.OptionFullWidth(),
		progressbar.OptionSetSpinnerChangeInterval(0)) // otherwise a goroutine of the bar turns the spinner, which is a data race
	ctx, cancel := context.WithCancel(ctx)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				_ = bar.Clear() // fails only if the terminal is gone
				return
			case <-tick.C:
				read, _ := progress()
				_ = bar.Set64(read) // the same
			}
		}
	}()
	return func() {
		cancel()
		<-finished
	}
}
