package decider

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// countingLimiter counts refunds.
type countingLimiter struct {
	ports.Limiter
	refunds int
	err     error // of refunds
}

func (l *countingLimiter) Decide(_ context.Context, req policy.Request) (decision.Decision, error) {
	if req.Op == domain.OpUndo {
		l.refunds++
	}
	return decision.Decision{}, l.err
}

// TestRefund_aRequestHasOne: the proxy refunds by the header of an answer, and by the 502 that stands for one which then
// proves to be broken.
func TestRefund_aRequestHasOne(t *testing.T) {
	statuses, err := policy.ParseRefundOn("2xx", "502")
	require.NoError(t, err)
	limiter := &countingLimiter{}
	d := New(limiter, Config{})
	s := new(RequestScratch)
	s.answer[0].Decision.RefundOn = statuses
	var ctx fasthttp.RequestCtx
	for _, status := range []int{404, 200, 502, 200} {
		d.Refund(&ctx, s, status)
	}
	assert.Equal(t, 1, limiter.refunds)
}

// While the store is away, every request would log a line.
func TestRefund_anOutageLogsFewLines(t *testing.T) {
	statuses, err := policy.ParseRefundOn("2xx")
	require.NoError(t, err)
	core, lines := observer.New(zap.WarnLevel)
	d := New(&countingLimiter{err: ports.ErrUnavailable}, Config{Log: zap.New(core)})
	for range 50 {
		s := new(RequestScratch)
		s.answer[0].Decision.RefundOn = statuses
		d.Refund(new(fasthttp.RequestCtx), s, 200)
	}
	assert.Equal(t, 10, lines.FilterMessage("A refund may be lost").Len())
}
