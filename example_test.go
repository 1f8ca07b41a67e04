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
	ctx := context.Background()
	if err := limiter.Ping(ctx); err != nil { // with Redis: while it is down, every request passes, and a line is logged
		fmt.Println(err)
		return
	}
	for range 4 {
		ok, err := limiter.Allow(ctx, "alice")
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
	search, err := limiter.Policy("search")
	if err != nil {
		fmt.Println(err) // there is no policy of this name
		return
	}
	r, err := search.Take(context.Background(), "alice", 2)
	fmt.Println(r.Allowed, r.Remaining, "of", r.Limit, err)
	// Output: true 8 of 10 <nil>
}

func ExampleQuota() {
	day := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	limiter, err := velocity.New(velocity.Config{
		Limits: []velocity.Limit{
			velocity.PerSecond(5).Burst(10).Named("burst"),
			velocity.Quota(1000, velocity.Day).In("Europe/Berlin").Named("daily"),
			velocity.Quota(20, velocity.Month).From("2026-01-15").WithCost(1).Named("requests"), // each request counts one
		},
		Now: func() time.Time { return day }, // for a test
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	r, err := limiter.Take(context.Background(), "alice", 6)
	fmt.Println(r.Allowed, r.Remaining, "of", r.Limit, err)
	r, err = limiter.Refund(context.Background(), "alice", 6) // the request stays counted
	fmt.Println(r.Remaining, "of", r.Limit, "until", day.Add(r.ResetAfter).Format(time.DateTime), err)
	// Output:
	// true 4 of 10 <nil>
	// 19 of 20 until 2026-12-15 00:00:00 <nil>
}

func ExampleLimiter_RefundTakenAt() {
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.Quota(1000, velocity.Day)}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	ctx := context.Background()
	r, err := limiter.Take(ctx, "alice", 100) // an estimate
	if err != nil {
		fmt.Println(err)
		return
	}
	// The request turns out to cost 60. If a new day has begun meanwhile, it keeps all of its tokens.
	after, err := limiter.RefundTakenAt(ctx, "alice", 40, r.TakenAt)
	fmt.Println(r.Remaining, after.Remaining, err)
	// Output: 900 940 <nil>
}

func ExampleLimiter_Acquire() {
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(1)}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	ctx := context.Background()
	first, err := limiter.Acquire(ctx, "alice", 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	second, err := limiter.Acquire(ctx, "alice", 1)
	fmt.Println(first.Allowed, second.Allowed, second.RetryAfter, err)
	first.Release()
	third, err := limiter.Acquire(ctx, "alice", 1)
	fmt.Println(third.Allowed, err)
	third.Release()
	// Output:
	// true false 1s <nil>
	// true <nil>
}

func ExampleLimiter_Reserve() {
	limiter, err := velocity.New(velocity.Config{Policies: []velocity.Policy{{
		Name: velocity.DefaultPolicy, Limits: []velocity.Limit{velocity.PerHour(1)}, MaxWait: time.Hour,
	}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	for range 3 {
		r, err := limiter.Reserve(context.Background(), "alice", 1)
		fmt.Println(r.Allowed, r.Wait.Round(time.Minute), err) // it would sleep for r.Wait
	}
	// Output:
	// true 0s <nil>
	// true 1h0m0s <nil>
	// false 0s <nil>
}
