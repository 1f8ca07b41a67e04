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

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/span"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// passAll lets every request pass.
type passAll struct{ ports.Limiter }

func (passAll) DecideMany(_ context.Context, _ []policy.Request, answers []ports.Answer) {
	answers[0].Decision = decision.Decision{Outcome: decision.OutcomeExempt, Policy: "default", Store: decision.StorePolicy}
}

// countingTracer counts what is begun and ended.
type countingTracer struct {
	ports.Tracer
	begun, ended int
}

func (t *countingTracer) Request(string, string, string, string) ports.RequestSpan {
	t.begun++
	return countingSpan{t}
}

type countingSpan struct{ of *countingTracer }

func (countingSpan) Context() context.Context   { return context.Background() }
func (countingSpan) TraceID() string            { return "" }
func (countingSpan) Headers() (string, string)  { return "", "" }
func (countingSpan) Decided(*decision.Decision) {}
func (countingSpan) DecidedMany([]ports.Answer) {}
func (s countingSpan) End(int)                  { s.of.ended++ }

func TestTrace_withoutATracerARequestCostsNoMemory(t *testing.T) {
	s, err := New(Config{
		Addr: "127.0.0.1:0", ReadTimeout: time.Second, WriteTimeout: time.Second, IdleTimeout: time.Second, MaxConns: 10,
	}, passAll{}, nil, zap.NewNop())
	require.NoError(t, err)
	var ctx fasthttp.RequestCtx
	ctx.Request.SetRequestURI("/api/resource")
	ctx.Request.Header.Set(span.HeaderTraceParent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	handle := s.http.App.Server().Handler
	once := func() {
		ctx.ResetUserValues()
		ctx.Response.Reset()
		handle(&ctx)
	}
	assert.Zero(t, testing.AllocsPerRun(100, once))
	require.Equal(t, fasthttp.StatusOK, ctx.Response.StatusCode())

	tracer := &countingTracer{}
	s.Trace(tracer)
	once()
	assert.Equal(t, 1, tracer.begun)
	assert.Equal(t, 1, tracer.ended)
}
