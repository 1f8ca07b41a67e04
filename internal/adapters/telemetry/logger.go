// Package telemetry writes structured logs, one JSON object per line.
//
// Logging never waits for the output. Lines go to a buffer, which is handed in chunks, at least once a second, to the one
// goroutine that writes. The number of waiting chunks is bounded. While the output accepts nothing, further chunks are
// dropped, and the first line after it recovers says how many lines are missing. [Logger.Close] writes the rest. A process
// that is killed loses the lines of its last second.
package telemetry

import (
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

const (
	// flushInterval is how long a line may stay in the buffer.
	flushInterval = time.Second
	// chunkSize is how much is written at once. A line is split between two chunks only if it alone is longer.
	chunkSize = 256 << 10
)

// Logger writes JSON lines, or lines for people. It is a *zap.Logger that must be closed.
type Logger struct {
	*zap.Logger
	buffer *zapcore.BufferedWriteSyncer
	writer *queuedWriter
}

// NewLogger returns a logger that writes to out. Until Close, only a goroutine of the logger writes to it.
func NewLogger(cfg Config, out io.Writer) (*Logger, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	level, err := cfg.level()
	if err != nil {
		return nil, err
	}
	encoder := cfg.encoder(out)
	writer := newQueuedWriter(out, encoder.Clone())
	buffer := &zapcore.BufferedWriteSyncer{WS: writer, Size: chunkSize, FlushInterval: flushInterval}
	core := zapcore.NewCore(encoder, buffer, level)
	return &Logger{Logger: zap.New(core), buffer: buffer, writer: writer}, nil
}

// CloseTimeout is how long Close waits at most, for an output that takes no more.
const CloseTimeout = 500 * time.Millisecond

// Close writes what is buffered. It waits for the output for CloseTimeout at most, so that an output that blocks does not
// keep the process from ending. Lines logged afterwards are lost.
func (l *Logger) Close() error {
	err := l.buffer.Stop()
	if writeErr := l.writer.close(CloseTimeout); writeErr != nil {
		err = writeErr
	}
	return err
}

// Dropped returns the number of lines that were dropped because the output was too slow.
func (l *Logger) Dropped() uint64 { return l.writer.dropped.Load() }

func (c Config) encoder(out io.Writer) zapcore.Encoder {
	cfg := zapcore.EncoderConfig{
		TimeKey:        "time",
		LevelKey:       "level",
		NameKey:        "logger",
		MessageKey:     "msg",
		EncodeTime:     utcTime,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.StringDurationEncoder,
	}
	if c.LogFormat == FormatJSON || c.LogFormat != FormatConsole && !isTerminal(out) {
		return zapcore.NewJSONEncoder(cfg)
	}
	cfg.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000") // in the local zone, as the reader's clock
	cfg.EncodeLevel = zapcore.CapitalLevelEncoder
	cfg.ConsoleSeparator = "  "
	return zapcore.NewConsoleEncoder(cfg)
}

func isTerminal(out io.Writer) bool {
	f, isFile := out.(*os.File)
	return isFile && term.IsTerminal(int(f.Fd()))
}

// utcTime writes microseconds with six digits, so that lines sort as text.
func utcTime(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000000Z")(t.UTC(), enc)
}
