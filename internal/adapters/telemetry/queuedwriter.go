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

// maxChunks is how many chunks may wait for the output: 8 MiB of log.
const maxChunks = 32

var errLogOutputStuck = errors.New("the log's output takes nothing: its last lines are lost")

// queuedWriter hands what is written to it to one goroutine, and never waits for the output.
type queuedWriter struct {
	out    io.Writer
	notice *zap.Logger
	queue  chan chunk
	free   chan []byte
	// missing counts the lines dropped since the last chunk that found room.
	missing atomic.Int64
	// dropped counts all lines dropped.
	dropped atomic.Uint64
	quit    chan struct{}
	done    chan struct{}
}

// chunk is a run of whole lines, and how many lines are missing before it.
type chunk struct {
	lines   []byte
	missing int64
}

var _ zapcore.WriteSyncer = (*queuedWriter)(nil)

func newQueuedWriter(out io.Writer) *queuedWriter {
	w := &queuedWriter{
		out:    out,
		notice: zap.New(zapcore.NewCore(newEncoder(), zapcore.AddSync(out), zapcore.WarnLevel)),
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

// Sync implements zapcore.WriteSyncer. It does nothing: waiting for the disk is what this type is there to avoid.
func (w *queuedWriter) Sync() error { return nil }

func (w *queuedWriter) run() {
	defer close(w.done)
	for {
		select {
		case c := <-w.queue:
			w.write(c)
		case <-w.quit:
			w.drain()
			return
		}
	}
}

func (w *queuedWriter) drain() {
	for {
		select {
		case c := <-w.queue:
			w.write(c)
		default:
			w.write(chunk{missing: w.missing.Swap(0)})
			return
		}
	}
}

// write loses the chunk if the output fails: there is no other place to report it.
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

// close ends the goroutine once all that waits is written, or gives up after patience. It must be called once.
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
