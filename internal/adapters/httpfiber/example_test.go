package httpfiber_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// oneBucket stands for the real limiter: one bucket for everybody, which does not refill.
type oneBucket struct {
	limit  domain.Limit
	bucket domain.State
}

func (o *oneBucket) Decide(_ context.Context, req policy.Request) (decision.Decision, error) {
	buckets := []domain.State{o.bucket}
	verdict, _ := domain.Apply(domain.Operation{Op: req.Op, Cost: req.Cost}, []domain.Limit{o.limit}, buckets, nil, 0)
	o.bucket = buckets[0]
	d := decision.Decision{
		Policy: "default", Store: decision.StoreMemory, LevelKnown: true,
		Limits: []domain.LimitStatus{o.limit.Status(o.bucket, 0, req.Cost, 0, verdict == domain.Allowed)},
	}
	if verdict == domain.Allowed {
		d.Outcome = decision.OutcomeAllowed
	}
	return d, nil
}

func (o *oneBucket) DecideMany(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	for i := range reqs {
		answers[i].Decision, answers[i].Err = o.Decide(ctx, reqs[i])
	}
}

func (o *oneBucket) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	o.DecideMany(ctx, reqs, answers)
}

func ExampleRateLimitMiddleware() {
	limit, err := domain.NewBucket("burst", 2, 1, time.Minute)
	if err != nil {
		fmt.Println(err)
		return
	}
	app := fiber.New()
	app.Get("/search", httpfiber.RateLimitMiddleware(&oneBucket{limit: limit}), func(c *fiber.Ctx) error {
		return c.SendString("found")
	})
	for range 3 {
		res, err := app.Test(httptest.NewRequest("GET", "/search", nil))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%d, remaining %s, retry after %q\n", res.StatusCode,
			res.Header.Get("X-RateLimit-Remaining"), res.Header.Get("Retry-After"))
		_ = res.Body.Close()
	}
	// Output:
	// 200, remaining 1, retry after ""
	// 200, remaining 0, retry after ""
	// 429, remaining 0, retry after "60"
}
