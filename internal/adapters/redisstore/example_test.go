package redisstore_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func ExampleNewRedisShardManager() {
	shards, err := redisstore.NewRedisShardManager("a=10.0.0.1:6379", "b=10.0.0.2:6379", "c=10.0.0.3:6379")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = shards.Close() }()

	// What is between the braces of a bucket's key decides, and always picks the same shard.
	fmt.Println(shards.GetClient("default:ip=192.0.2.7").Options().Addr)
	fmt.Println(shards.GetClient("default:ip=192.0.2.8").Options().Addr)
	// Output:
	// 10.0.0.3:6379
	// 10.0.0.2:6379
}

// A store serves while its servers are down: each take says so, within the budget.
func ExampleStore_TakeMany() {
	store, err := redisstore.New(redisstore.DefaultConfig("127.0.0.1:1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = store.Close() }()

	burst, err := domain.NewBucket("burst", 10, 5, 1e9) // 5 per second, at most 10 at once
	if err != nil {
		fmt.Println(err)
		return
	}
	reqs := []ports.TakeRequest{{Op: domain.OpTake, Key: "default:ip=192.0.2.7", Limits: []domain.Limit{burst}, Cost: 1}}
	results := make([]ports.TakeResult, len(reqs))
	store.TakeMany(context.Background(), reqs, results)
	fmt.Println(errors.Is(results[0].Err, ports.ErrUnavailable))
	// Output:
	// true
}
