package telemetry

import (
	"bytes"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// maxChunks is how many chunks may wait for the output; they hold 8 MiB of log.
const maxChunks = 32

var errLogOutputStuck = errors.New("the log's output accepts nothing: its last lines are lost")

// queuedWriter passes lines to one goroutine, which writes them. Write never waits for the output.
type queuedWriter struct {
	out    io.Writer
	notice *zap.Logger
	queue  chan chunk
	free   chan []byte
	// missing counts the lines dropped since the last chunk that was queued.
	missing atomic.Int64
	// dropped counts all lines dropped.
	dropped atomic.Uint64
	quit    chan struct{}
	done    chan struct{}
}

// chunk holds whole lines, and the number of lines that are missing before them.
type chunk struct {
	lines   []byte
	missing int64
}

var _ zapcore.WriteSyncer = (*queuedWriter)(nil)

func newQueuedWriter(out io.Writer, notices zapcore.Encoder) *queuedWriter {
	w := &queuedWriter{
		out:    out,
		notice: zap.New(zapcore.NewCore(notices, zapcore.AddSync(out), zapcore.WarnLevel)),
		queue:  make(chan chunk, maxChunks),
		free:   make(chan []byte, 2), // one fills while one is written
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	go w.run()
	return w
}

// Write implements io.Writer. It keeps a copy of the lines, or counts them as missing. It never fails.
func (w *queuedWriter) Write(lines []byte) (int, error) {
	var b []byte
	select {
	case b = <-w.free:
	default:
	}
	c := chunk{lines: append(b[:0], lines...), missing: w.missing.Swap(0)}
	select {
	case w.queue <- c:
	default:
		n := int64(bytes.Count(lines, []byte{'\n'}))
		w.missing.Add(c.missing + n)
		w.dropped.Add(uint64(n))
		w.recycle(c)
	}
	return len(lines), nil
}

// Sync implements zapcore.WriteSyncer. It does nothing, since callers must not wait for the output.
func (w *queuedWriter) Sync() error { return nil }

func (w *queuedWriter) run() {
	defer close(w.done)
	for {
		select {
		case c := <-w.queue:
			w.write(c)
		case <-w.quit:
			for len(w.queue) > 0 {
				w.write(<-w.queue)
			}
			w.write(chunk{missing: w.missing.Swap(0)})
			return
		}
	}
}

// write writes a chunk. An error of the output is ignored, since there is no other place to report it.
func (w *queuedWriter) write(c chunk) {
	if c.missing > 0 {
		w.notice.Warn("Log lines dropped: the output was too slow", zap.Int64("lines", c.missing))
	}
	if len(c.lines) > 0 {
		_, _ = w.out.Write(c.lines)
	}
	w.recycle(c)
}

func (w *queuedWriter) recycle(c chunk) {
	select {
	case w.free <- c.lines:
	default:
	}
}

// close writes all waiting chunks and ends the goroutine. It returns an error if that takes longer than patience. It must be
// called once.
func (w *queuedWriter) close(patience time.Duration) error {
	close(w.quit)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.done:
		return nil
	case <-timer.C:
		return errLogOutputStuck
	}
}
