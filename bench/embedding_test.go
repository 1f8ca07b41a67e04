package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/throttled/throttled/v2"
	throttledmemory "github.com/throttled/throttled/v2/store/memstore"
	"github.com/ulule/limiter/v3"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"
	"golang.org/x/time/rate"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
)

// The examples are those of docs/embedding.md: the same limit by each package.

func withRedis(f func(ctx context.Context, client *redis.Client) error) {
	ctx := context.Background()
	server, err := redisserver.Start(ctx, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = server.Close() }()
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	if err := f(ctx, client); err != nil {
		fmt.Println(err)
	}
}

func Example_velocity() {
	withRedis(func(ctx context.Context, client *redis.Client) error {
		limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(5).Burst(10)}, RedisClient: client})
		if err != nil {
			return err
		}
		defer limiter.Close()
		ok, err := limiter.Allow(ctx, "alice")
		fmt.Println(ok, err)
		err = limiter.Wait(ctx, "alice")
		return err
	})
	// Output: true <nil>
}

func Example_xTimeRate() {
	ctx := context.Background()
	limiter := rate.NewLimiter(5, 10)
	ok := limiter.Allow()
	err := limiter.Wait(ctx)
	fmt.Println(ok, err)
	// Output: true <nil>
}

func Example_redisRate() {
	withRedis(func(ctx context.Context, client *redis.Client) error {
		limiter := redis_rate.NewLimiter(client)
		r, err := limiter.Allow(ctx, "alice", redis_rate.Limit{Rate: 5, Burst: 10, Period: time.Second})
		if err != nil {
			return err
		}
		ok := r.Allowed > 0
		fmt.Println(ok, r.Remaining, r.RetryAfter)
		return nil
	})
	// Output: true 9 -1ns
}

func Example_throttled() {
	ctx := context.Background()
	store, err := throttledmemory.NewCtx(100)
	if err != nil {
		fmt.Println(err)
		return
	}
	limiter, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{MaxRate: throttled.PerSec(5), MaxBurst: 9})
	if err != nil {
		fmt.Println(err)
		return
	}
	limited, r, err := limiter.RateLimitCtx(ctx, "alice", 1)
	ok := !limited
	fmt.Println(ok, r.Remaining, r.RetryAfter, err)
	limited, r, err = limiter.RateLimitCtx(ctx, "bob", 11)
	fmt.Println(!limited, r.RetryAfter, err)
	// Output:
	// true 9 -1ns <nil>
	// false -1ns <nil>
}

func Example_ulule() {
	ctx := context.Background()
	store := ululememory.NewStore()
	limiter := limiter.New(store, limiter.Rate{Limit: 5, Period: time.Second})
	r, err := limiter.Get(ctx, "alice")
	ok := !r.Reached
	fmt.Println(ok, r.Remaining, err)
	// Output: true 4 <nil>
}
