// Package sampledlog logs failures that every request may meet, such as those of a store or an upstream, in few lines.
package sampledlog

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Of each message so many lines are logged in that time, lest an outage fill a disk. The metrics count all.
const (
	lines    = 10
	interval = 10 * time.Second
)

// New returns a logger that writes to log, and leaves out what is too much.
func New(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, interval, lines, 0)
	}))
}
