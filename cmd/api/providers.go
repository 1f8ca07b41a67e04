package main

import (
	"errors"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func provideZap(log *telemetry.Logger) *zap.Logger { return log.Logger }

// store is where the buckets are.
type store struct {
	Name    domain.StoreName
	Buckets ports.BucketStore
	Health  ports.HealthChecker
	Shards  []redisstore.Shard // none in memory
	Memory  *memstore.Store    // nil in Redis
	Redis   *redisstore.Store  // nil in memory
	Stats   ports.StatsSource  // nil in memory
	// Shortcut is nil where there is none.
	Shortcut *app.Shortcut
}

// provideStore makes the store that the settings ask for.
func provideStore(
	cfg storeConfig, redis redisstore.Config, shortcut app.ShortcutConfig, memory memstore.Config, tracer ports.Tracer,
	log *zap.Logger,
) (*store, func(), error) {
	if cfg.usesRedis(&redis) {
		return newRedisStore(redis, shortcut, tracer, log)
	}
	buckets, err := memstore.New(memory)
	if err != nil {
		return nil, nil, err
	}
	s := &store{Name: domain.StoreMemory, Buckets: buckets, Health: buckets, Memory: buckets}
	return s, closing("memory", buckets, log), nil
}

func newRedisStore(
	cfg redisstore.Config, shortcut app.ShortcutConfig, tracer ports.Tracer, log *zap.Logger,
) (*store, func(), error) {
	redisstore.SetLogger(func(msg string) { log.Debug("Redis client", zap.String("message", msg)) })
	buckets, err := redisstore.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	watchShards(buckets.Manager(), log)
	buckets.Manager().Trace(tracer)
	s := &store{
		Name: domain.StoreRedis, Buckets: buckets, Health: buckets, Stats: buckets, Redis: buckets, Shards: buckets.Manager().Shards(),
	}
	if shortcut.MaxEntries == 0 {
		return s, closing("Redis", buckets, log), nil
	}
	start := time.Now()
	inFront, err := app.NewShortcut(shortcut, buckets, func() time.Duration { return time.Since(start) })
	if err != nil {
		return nil, nil, errors.Join(err, buckets.Close())
	}
	s.Buckets, s.Shortcut = inFront, inFront
	buckets.Manager().OnFailover(inFront.Forget)
	return s, func() {
		inFront.Close()
		closing("Redis", buckets, log)()
	}, nil
}

// closing is a cleanup, which has nobody to return an error to.
func closing(what string, c io.Closer, log *zap.Logger) func() {
	return func() {
		if err := c.Close(); err != nil {
			log.Warn("Closing the store failed", zap.String("store", what), zap.Error(err))
		}
	}
}

// localStore decides while the store cannot.
type localStore struct{ *memstore.Store }

func provideLocalStore(cfg memstore.Config, log *zap.Logger) (localStore, func(), error) {
	buckets, err := memstore.New(cfg)
	if err != nil {
		return localStore{}, nil, err
	}
	return localStore{buckets}, closing("local", buckets, log), nil
}

func provideLimiter(s *store, local localStore, policies ports.PolicySource, observer ports.Observer) *app.RateLimiter {
	return app.NewRateLimiter(s.Buckets, local.Store, policies, observer)
}

func provideServiceState(inForce *policies, api *httpfiber.Server) httpfiber.ServiceState {
	return httpfiber.ServiceState{FailureMode: inForce.failureMode, Draining: api.Draining}
}
