package velocity

import (
	"context"
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Allow takes one token for a key. An error means that nothing was decided: the key is empty, the policy unknown, or ctx
// was over before or cancelled meanwhile. A store that fails, or that has not answered when ctx's deadline comes, is no
// error: the policy's [Failure] mode decides.
func (l *Limiter) Allow(ctx context.Context, key string) (bool, error) { return l.AllowN(ctx, key, 1) }

// AllowN takes n tokens, or none.
func (l *Limiter) AllowN(ctx context.Context, key string, n int64) (bool, error) {
	r, err := l.Take(ctx, key, n)
	return r.Allowed, err
}

// Take is AllowN that tells all that was decided.
func (l *Limiter) Take(ctx context.Context, key string, n int64) (Result, error) {
	return l.decide(ctx, domain.OpTake, key, n)
}

// Peek looks and takes nothing.
func (l *Limiter) Peek(ctx context.Context, key string) (Result, error) {
	return l.decide(ctx, domain.OpPeek, key, 0)
}

// Refund gives n tokens back, never above the capacity. When it fails with [ErrUnavailable] it must not be repeated: what
// is given twice can be spent twice.
func (l *Limiter) Refund(ctx context.Context, key string, n int64) (Result, error) {
	return l.decide(ctx, domain.OpRefund, key, n)
}

// Wait takes one token, waiting until there is one.
func (l *Limiter) Wait(ctx context.Context, key string) error { return l.WaitN(ctx, key, 1) }

// WaitN takes n tokens. Where there are none it sleeps for as long as the decision says and asks again, until ctx ends. It
// returns at once an error that wraps [ErrNever] if no wait helps, context.DeadlineExceeded if ctx ends before the wait
// would, or [ErrUnavailable] if the store failed and the policy is [Closed].
func (l *Limiter) WaitN(ctx context.Context, key string, n int64) error {
	for {
		r, err := l.Take(ctx, key, n)
		switch {
		case err != nil:
			return err
		case r.Allowed:
			return nil
		case r.Unavailable:
			return ErrUnavailable
		case r.RetryAfter == Never:
			return fmt.Errorf("%w: %d", ErrNever, n)
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < r.RetryAfter {
			return fmt.Errorf("velocity: the tokens are there in %v: %w", r.RetryAfter, context.DeadlineExceeded)
		}
		if err := sleep(ctx, r.RetryAfter); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Limiter) decide(ctx context.Context, op domain.Op, key string, n int64) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	d, err := l.shared.limiter.Decide(ctx, domain.Request{Op: op, Policy: l.policy, Key: key, Cost: domain.Tokens(n)})
	if err != nil {
		return Result{}, err
	}
	return newResult(&d), nil
}
