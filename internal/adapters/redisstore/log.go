package redisstore

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// SetLogger sends what go-redis has to say to log, instead of to the standard error. Failures of commands reach
// their callers and are not among it: it is about the connections of its pools. go-redis has one logger for the
// whole process; set it before the first store is made.
func SetLogger(log func(msg string)) { redis.SetLogger(logFunc(log)) }

type logFunc func(msg string)

// Printf implements go-redis's logger.
func (f logFunc) Printf(_ context.Context, format string, args ...any) {
	f(fmt.Sprintf(format, args...))
}
