package httpfiber

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// countingLimiter counts refunds.
type countingLimiter struct {
	ports.Limiter
	refunds int
}

func (l *countingLimiter) Decide(_ context.Context, req domain.Request) (domain.Decision, error) {
	if req.Op == domain.OpRefund {
		l.refunds++
	}
	return domain.Decision{}, nil
}

// TestRefund_aRequestHasOne: the proxy refunds by the header of an answer, and by the 502 that stands for one which then
// proves to be broken.
func TestRefund_aRequestHasOne(t *testing.T) {
	statuses, err := domain.ParseRefundOn("2xx", "502")
	require.NoError(t, err)
	limiter := &countingLimiter{}
	m := newMiddleware(limiter, nil)
	v := newVisit()
	v.answer[0].Decision.RefundOn = statuses
	var ctx fasthttp.RequestCtx
	for _, status := range []int{404, 200, 502, 200} {
		m.refund(&ctx, v, status)
	}
	assert.Equal(t, 1, limiter.refunds)
}
