package velocity

import (
	"context"
	"fmt"
	"strconv"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// heldPermits are the permits that a context carries, the innermost first.
type heldPermits struct {
	permit *Permit
	outer  *heldPermits
}

type heldPermitsKey struct{}

// WithPermit returns a context by which [Settle] finds p, beside the permits that ctx carries already. It is for middlewares of your
// own; those of this module use it if they have the option Cost.
func WithPermit(ctx context.Context, p *Permit) context.Context {
	outer, _ := ctx.Value(heldPermitsKey{}).(*heldPermits)
	return context.WithValue(ctx, heldPermitsKey{}, &heldPermits{p, outer})
}

// Settle reports what a request has cost in the end, in tokens, such as the usage that the answer of a language model reports. ctx is that of
// a handler behind velocityhttp, velocitygrpc or velocityfiber, with the option Cost, whose cost is an estimate then. Each of
// them that decided the request charges or refunds the difference once, when it releases its permit, as [Permit.ReleaseCost]
// does. Those without Cost count requests, and are left alone. The last call counts, so Settle may be called as often as the usage of
// a stream grows. If the handler panics, the request costs the larger of the estimate and what was reported. If Settle is not called,
// it costs the estimate.
//
// Settle is safe for concurrent use, and asks no store. An error means that nothing is settled: it wraps [ErrInvalid] if actual is
// below 0 or above 2^31-1, or if ctx carries no permit, because no middleware with Cost decided the request or Skip passed it; and
// [ErrPermitEnded] if the request has ended before.
func Settle(ctx context.Context, actual int64) error {
	if err := validCost(actual); err != nil {
		return err
	}
	held, _ := ctx.Value(heldPermitsKey{}).(*heldPermits)
	if held == nil {
		return fmt.Errorf("velocity: %w: the context carries no permit: no middleware with the option Cost decided the request", ErrInvalid)
	}
	var err error
	for ; held != nil; held = held.outer {
		held.permit.reported.Store(actual)
		if held.permit.ended.Load() {
			err = fmt.Errorf("velocity: the cost %d comes too late: %w", actual, ErrPermitEnded)
		}
	}
	return err
}

func validCost(actual int64) error {
	if actual >= 0 && domain.Tokens(actual) <= domain.MaxCost {
		return nil
	}
	return &domain.FieldError{
		Kind: ErrInvalid, Field: "actual", Value: strconv.FormatInt(actual, 10), Reason: fmt.Sprintf("must be from 0 to %d", domain.MaxCost),
	}
}

// settle ends the permit, and settles the cost unless it is ports.Unsettled. It is called once.
func (p *Permit) settle(ctx context.Context, actual int64) error {
	if p.decision.Permit != "" {
		p.limiter.shared.limiter.End(p.decision.Permit, domain.Tokens(actual))
		return nil
	}
	if actual == int64(ports.Unsettled) {
		return nil
	}
	d := p.decision // a copy: others may read it
	settling, needed := d.Settle(policy.Request{Key: p.key}, domain.Tokens(actual))
	if !needed {
		return nil
	}
	_, err := p.limiter.ask(ctx, settling)
	return err
}

// end settles, once, what no caller waits for. The limiter reports the store's failures.
func (p *Permit) end(actual int64) { _ = p.settle(context.Background(), actual) }
