package domain_test

import (
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

// One client under two limits: 2 requests at once, refilled by 5 a second, and 3 in all within a minute.
func ExampleApply() {
	burst, err := domain.NewBucket("burst", 2, 5, time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	minute, err := domain.NewBucket("minute", 3, 3, time.Minute)
	if err != nil {
		fmt.Println(err)
		return
	}
	limits := []domain.Limit{burst, minute}
	buckets := make([]domain.State, len(limits)) // never stored: full
	start := domain.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))

	for _, after := range []time.Duration{0, 0, 0, 200 * time.Millisecond, 400 * time.Millisecond} {
		now := start.Add(after)
		verdict, _ := domain.Apply(domain.Operation{Op: domain.OpTake, Cost: 1}, limits, buckets, nil, now)
		fmt.Printf("%5s:", after)
		for i := range limits {
			s := limits[i].Status(buckets[i], now, 1, 0, verdict == domain.Allowed)
			fmt.Printf(" %s has %d, retry after %s;", s.Name, s.Remaining, s.RetryAfter)
		}
		fmt.Println()
	}
	// Output:
	//    0s: burst has 1, retry after 0s; minute has 2, retry after 0s;
	//    0s: burst has 0, retry after 0s; minute has 1, retry after 0s;
	//    0s: burst has 0, retry after 200ms; minute has 1, retry after 0s;
	// 200ms: burst has 0, retry after 0s; minute has 0, retry after 0s;
	// 400ms: burst has 1, retry after 0s; minute has 0, retry after 19.6s;
}

// Two requests a day in Berlin. On 25 October 2026 clocks are set back there, so the day has 25 hours.
func ExampleNewQuota() {
	days, err := calendar.Parse("day", "Europe/Berlin", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	daily, err := domain.NewQuota("daily", 2, days)
	if err != nil {
		fmt.Println(err)
		return
	}
	limits, states := []domain.Limit{daily}, make([]domain.State, 1)
	midnight := domain.InstantOf(time.Date(2026, 10, 24, 22, 0, 0, 0, time.UTC))
	for _, after := range []time.Duration{0, 5 * time.Hour, 24 * time.Hour, 25 * time.Hour} {
		now := midnight.Add(after)
		verdict, _ := domain.Apply(domain.Operation{Op: domain.OpTake, Cost: 1}, limits, states, nil, now)
		s := daily.Status(states[0], now, 1, 0, verdict == domain.Allowed)
		fmt.Printf("after %s: allowed %t, %d left, retry after %s\n", after, s.Allowed, s.Remaining, s.RetryAfter)
	}
	// Output:
	// after 0s: allowed true, 1 left, retry after 0s
	// after 5h0m0s: allowed true, 0 left, retry after 0s
	// after 24h0m0s: allowed false, 0 left, retry after 1h0m0s
	// after 25h0m0s: allowed true, 1 left, retry after 0s
}

// A limit that can not be kept is refused, and the error names the nearest one that can.
func ExampleNewBucket() {
	_, err := domain.NewBucket("slow", 1_000_000, 1, 24*time.Hour)
	fmt.Println(err)
	// Output:
	// rate: 1/24h: takes over 100 years to fill the bucket; the nearest rate that fits is 1/3153600ms
}
