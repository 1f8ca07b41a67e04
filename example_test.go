package velocity_test

import (
	"context"
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity"
)

func Example() {
	limiter, err := velocity.New(velocity.Config{
		Limits: []velocity.Limit{velocity.PerMinute(100).Burst(3)},
		// Redis: []string{"localhost:6379"}, // to share the limit with other processes
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	for range 4 {
		ok, err := limiter.Allow(context.Background(), "alice")
		fmt.Println(ok, err)
	}
	// Output:
	// true <nil>
	// true <nil>
	// true <nil>
	// false <nil>
}

func ExampleLimiter_Wait() {
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(1000).Burst(1)}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 3 {
		if err := limiter.Wait(ctx, "jobs"); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("three, a millisecond apart")
	// Output: three, a millisecond apart
}

func ExampleLimiter_Policy() {
	limiter, err := velocity.New(velocity.Config{Policies: []velocity.Policy{
		{Name: "logins", Limits: []velocity.Limit{velocity.PerHour(5)}, Failure: velocity.Closed},
		{Name: "search", Limits: []velocity.Limit{velocity.PerSecond(5).Burst(10).Named("burst"), velocity.PerHour(1000).Named("hourly")}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	r, err := limiter.Policy("search").Take(context.Background(), "alice", 2)
	fmt.Println(r.Allowed, r.Remaining, "of", r.Limit, err)
	// Output: true 8 of 10 <nil>
}
