package velocity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Allow takes one token for a key and reports whether the request may pass. An error means that there is no decision: the key is
// empty, the policy is unknown, or ctx was done before the call or cancelled during it. A call that is cancelled while it waits
// for Redis may have taken the token. If the store fails, or does not answer before ctx's deadline, the policy's [Failure] mode
// decides and there is no error.
func (l *Limiter) Allow(ctx context.Context, key string) (bool, error) { return l.AllowN(ctx, key, 1) }

// AllowN takes n tokens for a key. If fewer are left, it takes none and reports false.
func (l *Limiter) AllowN(ctx context.Context, key string, n int64) (bool, error) {
	r, err := l.Take(ctx, key, n)
	return r.Allowed, err
}

// Take takes n tokens as AllowN does, and returns the whole decision.
func (l *Limiter) Take(ctx context.Context, key string, n int64) (Result, error) {
	return l.decide(ctx, domain.OpTake, key, n, time.Time{})
}

// Reserve takes n tokens as Take does, but may borrow those that a bucket refills within the policy's [Policy.MaxWait]. It returns
// at once: the caller must then wait for [Result.Wait] before it goes on. Requests get their turns in the order in which the store
// decided. The tokens stay spent if the caller does not wait for them: to give them back would let two others have one turn.
//
// Reserve borrows no tokens that come after ctx's deadline. Under a policy with a concurrency limit the error wraps
// [ErrNeedsPermit], because the permit would be held while the caller waits: use [Limiter.Acquire].
func (l *Limiter) Reserve(ctx context.Context, key string, n int64) (Result, error) {
	d, err := l.ask(ctx, policy.Request{Key: key, Cost: domain.Tokens(n), MaxWait: untilDeadline(ctx)})
	if err != nil {
		return Result{}, err
	}
	return newResult(&d), nil
}

// Peek returns the current state of a key. It takes nothing, so Allowed is true even if no token is left: look at Remaining.
func (l *Limiter) Peek(ctx context.Context, key string) (Result, error) {
	return l.decide(ctx, domain.OpPeek, key, 0, time.Time{})
}

// Charge takes n tokens, at least one, even if fewer are left: the level may go below zero, and later requests are denied until
// it has been refilled, or until the quota's period ends. It is for a cost that is known only afterwards. The error wraps
// [ErrDebt] if the level would be too low, or [ErrUnavailable] if the charge may or may not have been carried out: charging
// again may charge twice. After any other error, such as [ErrOverloaded], nothing was charged.
func (l *Limiter) Charge(ctx context.Context, key string, n int64) (Result, error) {
	return l.ChargeTakenAt(ctx, key, n, time.Time{})
}

// ChargeTakenAt charges as Charge does for a request that was decided at takenAt, its [Result.TakenAt]. If a quota's period
// has ended since, the quota is not charged. The zero time means now.
func (l *Limiter) ChargeTakenAt(ctx context.Context, key string, n int64, takenAt time.Time) (Result, error) {
	return l.decide(ctx, domain.OpCharge, key, n, takenAt)
}

// Refund gives n tokens back, at least one: to a bucket up to its capacity, to a quota at most what was used in the current
// period. Do not repeat a refund that fails with [ErrUnavailable]: tokens that are given back twice can be spent twice. After
// any other error, such as [ErrOverloaded], nothing was given back.
func (l *Limiter) Refund(ctx context.Context, key string, n int64) (Result, error) {
	return l.RefundTakenAt(ctx, key, n, time.Time{})
}

// RefundTakenAt gives back as Refund does what was taken at takenAt, the take's [Result.TakenAt]. If a quota's period has ended
// since, it gets nothing back, since the tokens were those of another period. The zero time means now.
func (l *Limiter) RefundTakenAt(ctx context.Context, key string, n int64, takenAt time.Time) (Result, error) {
	return l.decide(ctx, domain.OpRefund, key, n, takenAt)
}

// Reset makes the buckets of a key full, and its quotas unused. If the store failed, the error wraps [ErrUnavailable] or
// [ErrOverloaded]. Reset may be repeated after any error.
func (l *Limiter) Reset(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.shared.limiter.Reset(ctx, ports.ClientID{Policy: l.policy, Key: key})
}

// Wait takes one token. If none is left, it waits for one. As WaitN, it may have taken the token if ctx is cancelled.
func (l *Limiter) Wait(ctx context.Context, key string) error { return l.WaitN(ctx, key, 1) }

// WaitN takes n tokens. If fewer are left, it borrows as [Limiter.Reserve] does, and sleeps until they are there, so that callers
// go on in the order in which they asked. If the policy does not let it wait so long, or at all, WaitN sleeps for the decision's
// RetryAfter and tries again. So it waits until ctx is done, whatever the policy's MaxWait is.
//
// WaitN returns
// at once if waiting cannot help: with an error that wraps [ErrNever] if n is above the capacity, context.DeadlineExceeded if
// ctx would end before the tokens are there, or [ErrUnavailable] if the store failed and the policy is [Closed]. If ctx is
// cancelled while Redis is asked, or while WaitN sleeps for borrowed tokens, the tokens may have been taken.
func (l *Limiter) WaitN(ctx context.Context, key string, n int64) error {
	for {
		r, err := l.Reserve(ctx, key, n)
		switch {
		case err != nil:
			return err
		case r.Allowed && (r.Wait == 0 || sleep(ctx, r.Wait)):
			return nil
		case r.Allowed:
			return ctx.Err()
		case r.Unavailable:
			return ErrUnavailable
		case r.RetryAfter == Never:
			return fmt.Errorf("%w: %d", ErrNever, n)
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < r.RetryAfter {
			return fmt.Errorf("velocity: the tokens will be there in %v: %w", r.RetryAfter, context.DeadlineExceeded)
		}
		if !sleep(ctx, r.RetryAfter) {
			return ctx.Err()
		}
	}
}

// untilDeadline is how long a request may wait, as far as ctx allows it: the policy bounds it, too.
func untilDeadline(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(max(time.Until(deadline), 0), policy.MaxMaxWait)
	}
	return policy.MaxMaxWait
}

func (l *Limiter) decide(ctx context.Context, op domain.Op, key string, n int64, takenAt time.Time) (Result, error) {
	req := policy.Request{Op: op, Key: key, Cost: domain.Tokens(n)}
	if !takenAt.IsZero() {
		if req.TakenAt = domain.InstantOf(takenAt); req.TakenAt <= 0 {
			return Result{}, fmt.Errorf("%w: takenAt: %v: must be after 1970-01-01", ErrInvalid, takenAt)
		}
	}
	d, err := l.ask(ctx, req)
	if err != nil {
		return Result{}, err
	}
	return newResult(&d), nil
}

// ask has the policy decide.
func (l *Limiter) ask(ctx context.Context, req policy.Request) (decision.Decision, error) {
	if err := ctx.Err(); err != nil {
		return decision.Decision{}, err
	}
	req.Policy = l.policy
	d, err := l.shared.limiter.Decide(ctx, req)
	if errors.Is(err, ErrNeedsPermit) {
		err = fmt.Errorf("velocity: policy %q: %w: use Acquire", l.policy, err)
	}
	return d, err
}
