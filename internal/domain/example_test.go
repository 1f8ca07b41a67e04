package domain_test

import (
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// One client under two limits: 2 requests at once, refilled by 5 a second, and 3 in all within a minute.
func ExampleApply() {
	burst, err := domain.NewLimit("burst", 2, 5, time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	minute, err := domain.NewLimit("minute", 3, 3, time.Minute)
	if err != nil {
		fmt.Println(err)
		return
	}
	limits := []domain.Limit{burst, minute}
	buckets := make([]domain.Bucket, len(limits)) // never stored: full
	start := domain.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))

	for _, after := range []time.Duration{0, 0, 0, 200 * time.Millisecond, 400 * time.Millisecond} {
		now := start.Add(after)
		verdict, _ := domain.Apply(domain.OpTake, 1, limits, buckets, now)
		fmt.Printf("%5s:", after)
		for i := range limits {
			s := limits[i].Status(buckets[i], now, 1, verdict == domain.Allowed)
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

// A limit that can not be kept is refused, and the error names the nearest one that can.
func ExampleNewLimit() {
	_, err := domain.NewLimit("slow", 1_000_000, 1, 24*time.Hour)
	fmt.Println(err)
	// Output:
	// rate: 1/24h: takes over 100 years to fill the bucket; the nearest rate that fits is 1/3153600ms
}
