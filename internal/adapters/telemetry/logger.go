package telemetry

import (
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// flushInterval is how long a line may stay in the buffer.
	flushInterval = time.Second
	// chunkSize is how much is written at once. No line is cut between two chunks, unless it alone is longer.
	chunkSize = 256 << 10
)

// Logger writes JSON lines. It is a *zap.Logger, with an end.
type Logger struct {
	*zap.Logger
	buffer *zapcore.BufferedWriteSyncer
	writer *queuedWriter
}

// NewLogger logs to out, which one goroutine alone writes to until Close.
func NewLogger(cfg Config, out io.Writer) (*Logger, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	level, err := cfg.level()
	if err != nil {
		return nil, err
	}
	writer := newQueuedWriter(out)
	buffer := &zapcore.BufferedWriteSyncer{WS: writer, Size: chunkSize, FlushInterval: flushInterval}
	core := zapcore.NewCore(newEncoder(), buffer, level)
	return &Logger{Logger: zap.New(core), buffer: buffer, writer: writer}, nil
}

// Close writes what is buffered and waits for it, at most a second: an output that takes nothing must not keep the
// process from ending. Lines logged afterwards are lost.
func (l *Logger) Close() error {
	err := l.buffer.Stop()
	if writeErr := l.writer.close(time.Second); writeErr != nil {
		err = writeErr
	}
	return err
}

// Dropped is how many lines the output was too slow for.
func (l *Logger) Dropped() uint64 { return l.writer.dropped.Load() }

func newEncoder() zapcore.Encoder {
	return zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey:        "time",
		LevelKey:       "level",
		NameKey:        "logger",
		MessageKey:     "msg",
		EncodeTime:     utcTime,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.StringDurationEncoder,
	})
}

// utcTime writes microseconds, always six digits, so that lines sort as text.
func utcTime(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000000Z")(t.UTC(), enc)
}
