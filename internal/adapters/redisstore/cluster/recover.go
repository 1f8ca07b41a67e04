package cluster

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
)

// recovering is a hook for the client of a node. It turns a panic into an error of the command: go-redis asks nodes on
// goroutines of its own, where a panic would end the process.
type recovering struct {
	node   string
	events *batch.Events
}

var _ redis.Hook = recovering{}

// DialHook implements redis.Hook.
func (recovering) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (r recovering) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) (err error) {
		defer r.recoverTo(&err)
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements redis.Hook.
func (r recovering) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) (err error) {
		defer r.recoverTo(&err)
		return next(ctx, cmds)
	}
}

func (r recovering) recoverTo(err *error) {
	if reason := recover(); reason != nil {
		*err = r.events.Panicked(r.node, reason)
	}
}
