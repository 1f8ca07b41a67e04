package cluster

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
)

// callOptions say how go-redis is called. What it, or a hook of a caller's client, does wrong must stay in that call.
type callOptions struct {
	events *batch.Events
	// borrowed says that the client is the caller's, who closes it. It may wait longer than its context allows.
	borrowed bool
}

// within returns what f returns. A panic of f is reported, and is an error. With a borrowed client within returns no later
// than ctx ends, with the context's error; f then goes on.
func within[T any](ctx context.Context, o callOptions, f func() (T, error)) (T, error) {
	if !o.borrowed {
		return recovered(o, f)
	}
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := recovered(o, f)
		done <- outcome{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func recovered[T any](o callOptions, f func() (T, error)) (value T, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = o.events.Panicked("cluster", reason)
		}
	}()
	return f()
}

// processor sends the commands that are no decisions. If it returns an error, the command must not be read.
type processor struct {
	client *redis.ClusterClient
	calls  callOptions
}

// Process implements script.Processor.
func (p processor) Process(ctx context.Context, cmd redis.Cmder) error {
	_, err := within(ctx, p.calls, func() (struct{}, error) { return struct{}{}, p.client.Process(ctx, cmd) })
	return err
}
