package velocityfiber_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocityfiber"
)

func limiter(t *testing.T, cfg velocity.Config) *velocity.Limiter {
	t.Helper()
	l, err := velocity.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

func app(l *velocity.Limiter, options ...velocityfiber.Option) *fiber.App {
	a := fiber.New()
	a.Use(velocityfiber.Middleware(l, options...))
	a.Get("/", func(c *fiber.Ctx) error { return c.SendString("hello") })
	a.Get("/fail", func(*fiber.Ctx) error { return fiber.ErrTeapot })
	return a
}

func get(t *testing.T, a *fiber.App, path, user string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("X-User", user)
	resp, err := a.Test(r, -1)
	require.NoError(t, err)
	return resp
}

func TestMiddleware_limitsEachKey(t *testing.T) {
	l := limiter(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(2)}})
	a := app(l, velocityfiber.Key(func(c *fiber.Ctx) string { return c.Get("X-User") }))
	assert.Equal(t, http.StatusOK, get(t, a, "/", "alice").StatusCode)
	r := get(t, a, "/fail", "alice")
	assert.Equal(t, http.StatusTeapot, r.StatusCode)
	assert.Equal(t, "0", r.Header.Get("X-RateLimit-Remaining"), "on every answer")
	r = get(t, a, "/", "alice")
	assert.Equal(t, http.StatusTooManyRequests, r.StatusCode)
	assert.Equal(t, "application/problem+json", r.Header.Get("Content-Type"))
	assert.Equal(t, "1800", r.Header.Get("Retry-After"))
	assert.Equal(t, http.StatusOK, get(t, a, "/", "bob").StatusCode)
	assert.Equal(t, http.StatusOK, get(t, a, "/", "").StatusCode, "by the peer")
}

func TestMiddleware_choosesThePolicyAndSkips(t *testing.T) {
	l := limiter(t, velocity.Config{
		Limits:   []velocity.Limit{velocity.PerHour(1)},
		Policies: []velocity.Policy{{Name: "staff", Limits: []velocity.Limit{velocity.PerHour(2)}}},
	})
	a := app(l, nil, velocityfiber.Key(nil), velocityfiber.OnDenied(nil), velocityfiber.OnError(nil),
		velocityfiber.Policy(func(c *fiber.Ctx) string { return map[string]string{"bob": "staff", "eve": "none"}[c.Get("X-User")] }),
		velocityfiber.Skip(func(c *fiber.Ctx) bool { return c.Get("X-User") == "probe" }),
	)
	for user, want := range map[string][]int{
		"alice": {200, 429}, "bob": {200, 200, 429}, "eve": {500}, "probe": {200, 200, 200},
	} {
		for i, status := range want {
			r := get(t, a, "/", user)
			assert.Equal(t, status, r.StatusCode, "%s %d", user, i)
			assert.Equal(t, user == "alice" || user == "bob", r.Header.Get("RateLimit-Policy") != "", user)
		}
	}
}

func TestMiddleware_handlersAnswerDenialsAndErrors(t *testing.T) {
	l := limiter(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(1)}})
	var failed error
	a := app(l,
		velocityfiber.Cost(func(c *fiber.Ctx) int64 { return int64(len(c.Get("X-User"))) - 1 }),
		velocityfiber.OnDenied(func(c *fiber.Ctx, result velocity.Result) error {
			return c.Status(http.StatusTeapot).SendString(fmt.Sprint(c.Get("X-User"), " waits ", result.RetryAfter > 0))
		}),
		velocityfiber.OnError(func(c *fiber.Ctx, err error) error {
			failed = err
			return c.SendStatus(http.StatusBadRequest)
		}),
	)
	assert.Equal(t, http.StatusOK, get(t, a, "/", "al").StatusCode)
	r := get(t, a, "/", "al")
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	assert.Equal(t, http.StatusTeapot, r.StatusCode)
	assert.Equal(t, "al waits true", string(body))
	assert.Equal(t, "0", r.Header.Get("X-RateLimit-Remaining"))
	assert.Equal(t, http.StatusOK, get(t, a, "/", "a").StatusCode, "it costs nothing")
	assert.Equal(t, http.StatusBadRequest, get(t, a, "/", "").StatusCode)
	require.ErrorIs(t, failed, velocity.ErrInvalid)
}

func ExampleMiddleware_options() {
	limiter, err := velocity.New(velocity.Config{
		Limits:   []velocity.Limit{velocity.PerMinute(100)},
		Policies: []velocity.Policy{{Name: "uploads", Limits: []velocity.Limit{velocity.PerMinute(1)}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	app := fiber.New()
	app.Use(velocityfiber.Middleware(limiter,
		velocityfiber.Key(func(c *fiber.Ctx) string { user, _ := c.Locals("user").(string); return user }),
		velocityfiber.Policy(func(c *fiber.Ctx) string {
			if c.Method() == fiber.MethodPut {
				return "uploads"
			}
			return "" // the limiter's own
		}),
		velocityfiber.Skip(func(c *fiber.Ctx) bool { return c.Path() == "/healthz" }),
		velocityfiber.OnDenied(func(c *fiber.Ctx, result velocity.Result) error {
			switch {
			case result.Unavailable: // the store failed, and the policy is Closed
				return c.Status(fiber.StatusServiceUnavailable).SendString("try again soon")
			case result.RetryAfter == velocity.Never: // it costs more than the capacity
				return c.Status(fiber.StatusTooManyRequests).SendString("the request is too large")
			default: // the header fields, such as Retry-After, are added after this
				return c.Status(fiber.StatusTooManyRequests).SendString(fmt.Sprintf("again in %.1f s", result.RetryAfter.Seconds()))
			}
		}),
	))
	app.Put("/file", func(c *fiber.Ctx) error { return c.SendString("hello") })
	for range 2 {
		resp, err := app.Test(httptest.NewRequest(http.MethodPut, "/file", nil))
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		fmt.Println(resp.StatusCode, string(body))
	}
	// Output:
	// 200 hello
	// 429 again in 60.0 s
}

func ExampleMiddleware() {
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(5).Burst(10)}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	app := fiber.New()
	app.Use(velocityfiber.Middleware(limiter))
	app.Get("/", func(c *fiber.Ctx) error { return c.SendString("hello") })
	resp, err := app.Test(httptest.NewRequest(http.MethodGet, "/", nil))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resp.StatusCode, resp.Header.Get("X-RateLimit-Remaining"))
	// Output: 200 9
}
