package velocity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/app/denialcache"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Limiter decides by one of its policies. Make it with [New]. It is safe for concurrent use.
type Limiter struct {
	policy  string
	shared  *shared
	derived bool // by Policy
}

// shared is common to the limiters of all policies.
type shared struct {
	limiter  *app.RateLimiter
	policies ports.PolicySource
	failures *failures
	redis    *redisstore.Store // nil in memory
	closing  sync.Once
	close    []func() error
}

// New returns a limiter for the policy [DefaultPolicy]. If the configuration has none of this name, use [Limiter.Policy] for
// each decision. New does not wait for Redis to answer: [Limiter.Ping] does. The error joins all violations in the
// configuration. Close the limiter after use.
func New(cfg Config) (*Limiter, error) {
	policies, memory, redis, err := cfg.compile()
	if err != nil {
		return nil, fmt.Errorf("velocity: %w", err)
	}
	s := &shared{policies: policies, failures: newFailures(&cfg)}
	local, err := s.openMemory(memory, nil)
	if err != nil {
		return nil, err
	}
	var store ports.BucketStore
	if cfg.inRedis() {
		store, err = s.openRedis(redis)
	} else {
		store, err = s.openMemory(memory, cfg.Now) // another one than local, see app.NewRateLimiter
	}
	if err != nil {
		return nil, fmt.Errorf("velocity: %w", errors.Join(named(err), s.closeAll()))
	}
	s.limiter = app.NewRateLimiter(store, local, policies, s.failures)
	s.close = append(s.close, s.endPermits)
	return &Limiter{policy: DefaultPolicy, shared: s}, nil
}

func (s *shared) openMemory(cfg memstore.Config, now func() time.Time) (ports.BucketStore, error) {
	open := memstore.New
	if now != nil {
		open = func(cfg memstore.Config) (*memstore.Store, error) {
			return memstore.NewWithClock(cfg, func() domain.Instant { return domain.InstantOf(now()) })
		}
	}
	store, err := open(cfg)
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, store.Close)
	return store, nil
}

func (s *shared) openRedis(cfg redisstore.Config) (ports.BucketStore, error) {
	store, err := redisstore.New(cfg)
	if err != nil {
		return nil, err
	}
	s.redis = store
	s.close = append(s.close, store.Close)
	start := time.Now()
	denials, err := denialcache.New(denialcache.Config{MaxEntries: 1 << 16, MaxAge: time.Second}, store,
		func() time.Duration { return time.Since(start) })
	if err != nil {
		return nil, err
	}
	store.Manager().OnFailover(denials.Clear)
	s.close = append(s.close, func() error { denials.Close(); return nil })
	return denials, nil
}

// endTimeout is how long Close waits for Redis to end permits. Those that it cannot end last until their lease is over.
const endTimeout = time.Second

func (s *shared) endPermits() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	return s.limiter.Close(ctx)
}

func (s *shared) closeAll() (err error) {
	s.closing.Do(func() {
		var errs []error
		for _, end := range slices.Backward(s.close) {
			errs = append(errs, end())
		}
		err = errors.Join(errs...)
	})
	return err
}

// Close ends the permits that are held, closes the connections, and ends the work in the background, for the limiters of all
// policies, which must not be used afterwards. On a limiter that [Limiter.Policy] returned, and when called again, it does nothing. It does not close
// [Config.RedisClient]. If Redis does not answer within a second, permits stay held there until their leases are over, and
// Close returns an error that says how many.
func (l *Limiter) Close() error {
	if l.derived {
		return nil
	}
	return l.shared.closeAll()
}

// Policy returns a limiter that decides by another policy. It shares everything else with l, and need not be closed. The error
// wraps [ErrUnknownPolicy] if the configuration has no policy of this name.
func (l *Limiter) Policy(name string) (*Limiter, error) {
	if _, err := l.shared.policies.Named(name); err != nil {
		return nil, fmt.Errorf("velocity: %w", err)
	}
	return &Limiter{policy: name, shared: l.shared, derived: true}, nil
}

// Ping reports whether every server of Redis can decide: it has each of them run a decision, which counts for no key. In memory
// it returns nil. As connections may still have to be made, it tries up to three times, a quarter of a second apart, or until
// ctx ends. One try takes at most TakeTimeout, in a Redis Cluster at most twice as long. The error wraps
// [ErrUnavailable], or [ErrOverloaded] if too much waits for Redis.
func (l *Limiter) Ping(ctx context.Context) error {
	if l.shared.redis == nil {
		return nil
	}
	// What connects goes on after an attempt. There are fewer attempts than failures that open a circuit breaker.
	const attempts, pause = 3, 250 * time.Millisecond
	for attempt := 1; ; attempt++ {
		var errs []error
		for _, shard := range l.shared.redis.CheckHealth(ctx) {
			errs = append(errs, shard.Err)
		}
		err := errors.Join(errs...)
		if err == nil {
			return nil
		}
		if attempt == attempts || !sleep(ctx, pause) {
			return fmt.Errorf("velocity: %w", err)
		}
	}
}

// sleep reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
