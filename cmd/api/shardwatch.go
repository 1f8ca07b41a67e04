package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// At the start the shards are asked until they answer, at most so long.
	greetingTimeout  = time.Second
	greetingInterval = 100 * time.Millisecond
)

// The messages are what operators search and alert for.
const (
	msgShardDown = "A shard does not answer: the failure policy decides for its clients"
	msgShardUp   = "A shard answers again: it decides for its clients"
	msgACL       = "Redis refuses commands that Velocity needs: docs/failures.md has the ACL"
	msgSkew      = "A shard's clock differs from this machine's: look after both"
	msgSkewOver  = "A shard's clock agrees with this machine's again"
)

// advice is what to do about a failure whose name does not say it.
var advice = map[ports.FailureKind]string{
	ports.FailureOOM:        "raise maxmemory, and set maxmemory-policy volatile-ttl: buckets that are nearly full again then make room",
	ports.FailureReadOnly:   "this address is a replica: give that of the primary, or let Sentinel name it",
	ports.FailureMasterDown: "this address is a replica that has lost its primary",
	ports.FailureNoReplicas: "the primary has fewer replicas than min-replicas-to-write asks for",
	ports.FailureMisconf:    "Redis cannot save its data: see its log; the buckets need no saving (save \"\")",
	ports.FailureAuth:       "see VELOCITY_REDIS_USERNAME and VELOCITY_REDIS_PASSWORD",
	ports.FailureNoPerm:     "the ACL of VELOCITY_REDIS_USERNAME needs: +eval +evalsha +time +hget +hmget +hset +hdel +pexpireat ~velocity:*",
	ports.FailureMaxClients: "raise maxclients: it must exceed VELOCITY_REDIS_POOL_SIZE times the number of nodes",
	ports.FailureTLS:        "see VELOCITY_REDIS_TLS and the files that it names",
	ports.FailureBusy:       "a script that is not Velocity's blocks Redis",
}

// watchShards logs what happens to the shards, each change once.
func watchShards(m *redisstore.RedisShardManager, log *zap.Logger) {
	m.OnBreaker(func(c redisstore.BreakerChange) {
		if !c.Open {
			log.Warn(msgShardUp, zap.String("shard", c.Shard), zap.Duration("outage", c.Outage))
			return
		}
		fields := []zap.Field{
			zap.String("shard", c.Shard), zap.String("kind", string(c.Kind)), zap.Time("since", c.At), zap.Error(c.Cause),
		}
		if text := advice[c.Kind]; text != "" {
			fields = append(fields, zap.String("advice", text))
		}
		log.Error(msgShardDown, fields...)
	})
	m.OnSkew(func(shard string, ahead time.Duration) {
		fields := []zap.Field{zap.String("shard", shard), zap.Duration("ahead", ahead)}
		if ahead.Abs() > redisstore.MaxSkew {
			log.Error(msgSkew, fields...)
		} else {
			log.Info(msgSkewOver, fields...)
		}
	})
}

// greetShards asks the shards for a while, since the first connections may take longer than one decision's budget,
// and says which of them do not answer. The start does not wait for them: until they do, the failure policy decides.
// Where that has opened the circuit breaker, it has been said already.
func (s *service) greetShards(ctx context.Context) {
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

// awaitShards returns those that do not answer.
func (s *service) awaitShards(ctx context.Context) []ports.ShardHealth {
	for began := time.Now(); ; {
		down := slices.DeleteFunc(s.Store.Health.CheckHealth(ctx), func(h ports.ShardHealth) bool { return h.Err == nil })
		if len(down) == 0 || time.Since(began) >= greetingTimeout {
			return down
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(greetingInterval):
		}
	}
}

func (s *service) breakerIsOpen(shard string) bool {
	return slices.ContainsFunc(s.Store.Redis.Stats(), func(stats ports.ShardStats) bool {
		return stats.Name == shard && stats.Breaker != ports.BreakerClosed
	})
}

// logPlacement shows what nodes that share shards must agree on.
func (s *service) logPlacement() {
	if s.Store.Redis == nil {
		return
	}
	if placement := s.Store.Redis.Manager().Placement(); placement != "" {
		s.Log.Info("Clients are placed on shards by this list: it must be the same on every node",
			zap.String("placement", placement))
	}
}
