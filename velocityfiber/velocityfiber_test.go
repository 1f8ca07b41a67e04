package velocityfiber_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocityfiber"
)

func app(l *velocity.Limiter, key func(*fiber.Ctx) string) *fiber.App {
	a := fiber.New()
	a.Use(velocityfiber.New(l, key))
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

func TestNew_limitsEachKey(t *testing.T) {
	l, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerHour(2)}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	a := app(l, func(c *fiber.Ctx) string { return c.Get("X-User") })
	assert.Equal(t, http.StatusOK, get(t, a, "/", "alice").StatusCode)
	r := get(t, a, "/fail", "alice")
	assert.Equal(t, http.StatusTeapot, r.StatusCode)
	assert.Equal(t, "0", r.Header.Get("X-RateLimit-Remaining"), "whatever is answered")
	r = get(t, a, "/", "alice")
	assert.Equal(t, http.StatusTooManyRequests, r.StatusCode)
	assert.Equal(t, "application/problem+json", r.Header.Get("Content-Type"))
	assert.Equal(t, "1800", r.Header.Get("Retry-After"))
	assert.Equal(t, http.StatusOK, get(t, a, "/", "bob").StatusCode)
	assert.Equal(t, http.StatusOK, get(t, a, "/", "").StatusCode, "by the peer")
	assert.Equal(t, http.StatusInternalServerError, get(t, app(l.Policy("none"), nil), "/", "").StatusCode)
}

func ExampleNew() {
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(5).Burst(10)}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	app := fiber.New()
	app.Use(velocityfiber.New(limiter, nil))
	app.Get("/", func(c *fiber.Ctx) error { return c.SendString("hello") })
	resp, err := app.Test(httptest.NewRequest(http.MethodGet, "/", nil))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resp.StatusCode, resp.Header.Get("X-RateLimit-Remaining"))
	// Output: 200 9
}
