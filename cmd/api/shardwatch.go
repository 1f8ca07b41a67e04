package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// At the start the shards are asked at this interval until they answer, or until the timeout.
	startTimeout  = time.Second
	startInterval = 100 * time.Millisecond
)

// Operators search and alert for these messages.
const (
	msgShardDown = "A shard does not answer: the failure policy decides for its clients"
	msgShardUp   = "A shard answers again: it decides for its clients"
	msgACL       = "Redis refuses commands that Velocity needs: docs/failures.md has the ACL"
	msgSkew      = "A shard's clock differs from this machine's: look after both"
	msgSkewOver  = "A shard's clock agrees with this machine's again"
	msgPanic     = "Asking a shard panicked: please report this defect with its stack"
)

// advice is what to do about a failure whose name does not say it.
var advice = map[failure.Kind]string{
	failure.OOM:        "raise maxmemory, and set maxmemory-policy volatile-ttl: buckets that are nearly full again then make room",
	failure.ReadOnly:   "this address is a replica: give that of the primary, or let Sentinel name it",
	failure.MasterDown: "this address is a replica that has lost its primary",
	failure.NoReplicas: "the primary has fewer replicas than min-replicas-to-write asks for",
	failure.Misconf:    "Redis cannot save its data: see its log; the buckets need no saving (save \"\")",
	failure.Auth:       "see VELOCITY_REDIS_USERNAME and VELOCITY_REDIS_PASSWORD",
	failure.NoPerm:     "the ACL of VELOCITY_REDIS_USERNAME needs: +eval +evalsha +time +hget +hmget +hset +hdel +hscan +pexpireat +zrange +zcard +zcount +zscore +zadd +zrem +zremrangebyrank ~velocity:*",
	failure.MaxClients: "raise maxclients: it must exceed VELOCITY_REDIS_POOL_SIZE times the number of nodes",
	failure.Protected:  "Redis answers its own host only: set a password there and VELOCITY_REDIS_PASSWORD here, or protected-mode no on a private network",
	failure.TLS:        "see VELOCITY_REDIS_TLS and the files that it names",
	failure.Busy:       "a script that is not Velocity's blocks Redis",
}

// watchShards logs each change of the state of a shard once.
func watchShards(m *redisstore.RedisShardManager, log *zap.Logger) {
	m.OnBreaker(func(c batch.BreakerChange) {
		if !c.Open {
			log.Warn(msgShardUp, zap.String("shard", c.Shard), zap.Duration("outage", c.Outage))
			return
		}
		fields := []zap.Field{
			zap.String("shard", c.Shard), zap.String("kind", string(c.Kind)), zap.String("since", c.At.UTC().Format(time.RFC3339Nano)), zap.Error(c.Cause),
		}
		if text := advice[c.Kind]; text != "" {
			fields = append(fields, zap.String("advice", text))
		}
		log.Error(msgShardDown, fields...)
	})
	m.OnSkew(func(shard string, ahead time.Duration) {
		fields := []zap.Field{zap.String("shard", shard), zap.Duration("ahead", ahead)}
		if ahead.Abs() > batch.MaxSkew {
			log.Error(msgSkew, fields...)
		} else {
			log.Info(msgSkewOver, fields...)
		}
	})
}

// panicLogInterval is the time in which at most one panic is logged: each call may panic.
const panicLogInterval = 10 * time.Second

// watchPanics logs panics while a shard is asked. Their requests were decided by the failure policy.
func watchPanics(m *redisstore.RedisShardManager, log *zap.Logger) {
	log = log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, panicLogInterval, 1, 0)
	}))
	m.OnPanic(func(shard string, p *failure.PanicError) {
		log.Error(msgPanic, zap.String("shard", shard), zap.Any("reason", p.Reason), zap.ByteString("stack", p.Stack))
	})
}

// checkShards logs which shards do not answer at the start. It asks them for a second, because the first connections may
// take longer than the timeout of a decision. The service does not wait for it: meanwhile the failure policy decides. A
// shard whose breaker is open has been logged already.
func (s *service) checkShards(ctx context.Context) {
	if s.Store.Redis == nil {
		return
	}
	down := s.awaitShards(ctx)
	for _, shard := range s.Store.Redis.CheckPermissions(ctx) {
		if errors.Is(shard.Err, redisstore.ErrPermissions) {
			s.Log.Error(msgACL, zap.String("shard", shard.Name), zap.Error(shard.Err))
		}
	}
	for _, shard := range down {
		if !s.breakerIsOpen(shard.Name) {
			s.Log.Error(msgShardDown, zap.String("shard", shard.Name), zap.Error(shard.Err))
		}
	}
}

// awaitShards waits until every shard answers, and returns those that do not before the timeout.
func (s *service) awaitShards(ctx context.Context) []ports.ShardHealth {
	for began := time.Now(); ; {
		down := slices.DeleteFunc(s.Store.Health.CheckHealth(ctx), func(h ports.ShardHealth) bool { return h.Err == nil })
		if len(down) == 0 || time.Since(began) >= startTimeout {
			return down
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(startInterval):
		}
	}
}

func (s *service) breakerIsOpen(shard string) bool {
	return slices.ContainsFunc(s.Store.Redis.Stats(), func(stats ports.ShardStats) bool {
		return stats.Name == shard && stats.Breaker != ports.BreakerClosed
	})
}

// logShardRouting logs the list of shards, on which all nodes must agree.
func (s *service) logShardRouting() {
	if s.Store.Redis == nil {
		return
	}
	if digest := s.Store.Redis.Manager().RoutingDigest(); digest != "" {
		s.Log.Info("Clients are placed on shards by this list: it must be the same on every node",
			zap.String("placement", digest))
	}
}
