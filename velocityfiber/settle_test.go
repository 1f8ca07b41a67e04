package velocityfiber_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocityfiber"
)

// A stream's writer runs when the handlers have returned; it settles with the context that it kept.
func TestSettle_byTheHandlerOrTheStream(t *testing.T) {
	quota := velocity.Config{Limits: []velocity.Limit{velocity.Quota(1000, velocity.Year), velocity.Concurrent(5).Named("parallel")}}
	requests, team, key := limiter(t, quota), limiter(t, quota), limiter(t, quota)
	estimate := velocityfiber.Cost(func(*fiber.Ctx) int64 { return 50 })
	a := fiber.New(fiber.Config{DisableStartupMessage: true})
	a.Use(recover.New(), velocityfiber.Middleware(requests), velocityfiber.Middleware(team, estimate), velocityfiber.Middleware(key, estimate))
	a.Get("/plain/:cost", func(c *fiber.Ctx) error { return settle(c) })
	a.Get("/error/:cost", func(c *fiber.Ctx) error { assert.NoError(t, settle(c)); return fiber.ErrTeapot })
	a.Get("/panic/:cost", func(c *fiber.Ctx) error { assert.NoError(t, settle(c)); panic("on purpose") })
	a.Get("/silent", func(*fiber.Ctx) error { return nil })
	a.Get("/stream/:cost", func(c *fiber.Ctx) error {
		ctx := c.UserContext()
		actual, err := c.ParamsInt("cost")
		c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
			_, _ = io.WriteString(w, "event")
			assert.NoError(t, w.Flush())
			assert.NoError(t, velocity.Settle(ctx, int64(actual)))
		})
		return err
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = a.Listener(ln) }()
	t.Cleanup(func() { assert.NoError(t, a.Shutdown()) })
	for _, c := range []struct {
		path string
		cost int64
	}{
		{"/plain/20", 20},
		{"/plain/130", 130},
		{"/silent", 50},
		{"/error/0", 0},
		{"/panic/20", 50},
		{"/panic/60", 60},
		{"/stream/20", 20},
		{"/stream/130", 130},
	} {
		counted, teams, keys := remaining(t, requests), remaining(t, team), remaining(t, key)
		conn, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", c.path)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, conn)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		assert.EventuallyWithT(t, func(ct *assert.CollectT) {
			assert.Equal(ct, []int64{1, c.cost, c.cost},
				[]int64{counted - remaining(t, requests), teams - remaining(t, team), keys - remaining(t, key)})
		}, 20*time.Second, time.Millisecond, c.path)
	}
}

func settle(c *fiber.Ctx) error {
	actual, err := c.ParamsInt("cost")
	if err != nil {
		return err
	}
	return velocity.Settle(c.UserContext(), int64(actual))
}

func remaining(t *testing.T, l *velocity.Limiter) int64 {
	t.Helper()
	r, err := l.Peek(t.Context(), "127.0.0.1")
	require.NoError(t, err)
	return r.Remaining
}
