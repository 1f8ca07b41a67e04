package main

import (
	"context"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/app/denialcache"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// store keeps the buckets.
type store struct {
	Name        decision.StoreName
	Buckets     ports.BucketStore
	Health      ports.HealthChecker
	Shards      []redisstore.Shard // none in memory
	Memory      *memstore.Store    // nil in Redis
	Redis       *redisstore.Store  // nil in memory
	Stats       ports.StatsSource  // nil in memory
	DenialCache *denialcache.Cache // nil if it is off, and in memory
}

// provideStore opens the store that the settings select.
func provideStore(
	cfg settings.Store, redis redisstore.Config, denials denialcache.Config, memory memstore.Config, tracer ports.Tracer,
	log *zap.Logger,
) (*store, func(), error) {
	if cfg.UsesRedis(&redis) {
		return newRedisStore(redis, denials, tracer, log)
	}
	buckets, err := memstore.New(memory)
	if err != nil {
		return nil, nil, err
	}
	s := &store{Name: decision.StoreMemory, Buckets: buckets, Health: buckets, Memory: buckets}
	return s, closing("memory", buckets, log), nil
}

func newRedisStore(
	cfg redisstore.Config, denials denialcache.Config, tracer ports.Tracer, log *zap.Logger,
) (*store, func(), error) {
	redisstore.SetLogger(func(msg string) { log.Debug("Redis client", zap.String("message", msg)) })
	buckets, err := redisstore.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	watchShards(buckets.Manager(), log)
	watchPanics(buckets.Manager(), log)
	buckets.Manager().Trace(tracer)
	s := &store{
		Name: decision.StoreRedis, Buckets: buckets, Health: buckets, Stats: buckets, Redis: buckets, Shards: buckets.Manager().Shards(),
	}
	if denials.MaxEntries == 0 {
		return s, closing("Redis", buckets, log), nil
	}
	start := time.Now()
	cache, err := denialcache.New(denials, buckets, func() time.Duration { return time.Since(start) })
	if err != nil {
		return nil, nil, errors.Join(err, buckets.Close())
	}
	s.Buckets, s.DenialCache = cache, cache
	buckets.Manager().OnFailover(cache.Clear)
	return s, func() {
		cache.Close()
		closing("Redis", buckets, log)()
	}, nil
}

// closing returns a cleanup function, which logs its error.
func closing(what string, c io.Closer, log *zap.Logger) func() {
	return func() {
		if err := c.Close(); err != nil {
			log.Warn("Closing the store failed", zap.String("store", what), zap.Error(err))
		}
	}
}

// localStore decides while the store fails, for policies that say so.
type localStore struct{ *memstore.Store }

func provideLocalStore(cfg memstore.Config, log *zap.Logger) (localStore, func(), error) {
	buckets, err := memstore.New(cfg)
	if err != nil {
		return localStore{}, nil, err
	}
	return localStore{buckets}, closing("local", buckets, log), nil
}

// provideOverrides opens the store of overrides beside that of the buckets.
func provideOverrides(sizes settings.Sizes, s *store, log *zap.Logger) (ports.OverrideStore, func(), error) {
	if s.Redis == nil {
		return memstore.NewOverrides(sizes.Overrides), func() {}, nil
	}
	overrides, err := s.Redis.Manager().Overrides(sizes.Overrides)
	if err != nil {
		return nil, nil, err
	}
	return overrides, closing("overrides", overrides, log), nil
}

const (
	msgUnfit = "An override does not fit its policy any more: the part that does not is ignored"
	// At most so many lines about that are logged in an interval: after a change of the file, it may be true of every override.
	unfitLines, unfitInterval = 10, time.Minute
)

// logUnfit returns a function that logs overrides that do not fit their policy.
func logUnfit(log *zap.Logger) func(policyName, client string, reason error) {
	log = log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, unfitInterval, unfitLines, 0)
	}))
	return func(policyName, client string, reason error) {
		log.Warn(msgUnfit, zap.String("policy", policyName), zap.String("client", client), zap.NamedError("reason", reason))
	}
}

// endTimeout is how long the process waits at its end for permits to be released. Those left end with their leases.
const endTimeout = time.Second

func provideLimiter(
	waiting settings.Waiting, s *store, local localStore, overrides ports.OverrideStore, policies ports.PolicySource,
	observer ports.Observer, log *zap.Logger,
) (*app.RateLimiter, func()) {
	l := app.NewRateLimiter(s.Buckets, local.Store, policies, observer)
	l.LimitWaiting(waiting.Max)
	l.UseOverrides(overrides, logUnfit(log))
	return l, func() {
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			log.Warn("Releasing permits failed", zap.Error(err))
		}
	}
}
