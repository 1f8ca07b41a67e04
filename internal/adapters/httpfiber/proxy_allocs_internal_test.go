//go:build !race

package httpfiber

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// denyAll lets no request pass.
type denyAll struct{ ports.Limiter }

var spent = []domain.LimitStatus{{Name: "burst", Capacity: 10, RetryAfter: time.Second, ResetAfter: 2 * time.Second}}

func (denyAll) DecideMany(_ context.Context, _ []domain.Request, answers []ports.Answer) {
	answers[0].Decision = domain.Decision{
		Outcome: domain.OutcomeDenied, Policy: "default", Store: domain.StoreShortcut, LevelKnown: true,
		Limits: append(answers[0].Decision.Limits[:0], spent...),
	}
}

func TestProxy_refusingCostsNoMemory(t *testing.T) {
	s, err := New(Config{
		Addr: "127.0.0.1:0", ReadTimeout: time.Second, WriteTimeout: time.Second, IdleTimeout: time.Second, MaxConns: 10,
		Upstream: UpstreamConfig{URL: "http://127.0.0.1:1", Timeout: time.Second, IdleTimeout: time.Second, MaxConns: 1},
	}, denyAll{}, zap.NewNop())
	require.NoError(t, err)
	var ctx fasthttp.RequestCtx
	ctx.Request.SetRequestURI("/search")
	ctx.Request.Header.SetHost("api.example.com")
	once := func() {
		ctx.ResetUserValues()
		ctx.Response.Reset()
		s.http.app.Server().Handler(&ctx)
	}
	assert.Zero(t, testing.AllocsPerRun(100, once))
	require.Equal(t, fasthttp.StatusTooManyRequests, ctx.Response.StatusCode())
}
