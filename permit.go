package velocity

import (
	"context"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Permit is a decision, and what it holds: if Allowed is set and the policy has a concurrency limit, one of its permits, until
// Release. Make it with [Limiter.Acquire]. Its methods are safe for concurrent use, and to call whatever was decided.
type Permit struct {
	Result
	limiter  *Limiter
	key      string
	detach   func() bool // from Acquire's context; nil if nothing is held
	ended    atomic.Bool
	reported atomic.Int64 // by Settle; ports.Unsettled before
}

// Acquire takes n tokens for a key, and a permit of each concurrency limit of the policy. Release the permit when the work is
// done. It also ends, by [Permit.Abort], when ctx does: use [Permit.Detach], or [context.WithoutCancel], for work that goes on after ctx.
// Until then the limiter renews it in the background.
//
// Under a policy with [Policy.MaxWait], Acquire sleeps until the tokens that it borrowed are there, and holds its permit meanwhile.
// At most 10,000 requests of a limiter sleep at once; further ones are denied if they would have to.
//
// An error means that nothing is held: the key is empty, the policy is unknown, or ctx ended. If it ended while Acquire slept,
// the tokens stay spent. If the store fails, the policy's [Failure] mode decides: under [Open] the permit holds nothing, under
// [Local] it counts in this process.
func (l *Limiter) Acquire(ctx context.Context, key string, n int64) (*Permit, error) {
	d, err := l.ask(ctx, policy.Request{Key: key, Cost: domain.Tokens(n), Hold: true, MaxWait: untilDeadline(ctx)})
	if err != nil {
		return nil, err
	}
	p := &Permit{Result: newResult(&d), limiter: l, key: key}
	p.Wait = 0 // it is over
	p.reported.Store(int64(ports.Unsettled))
	if d.Permit != "" {
		p.detach = context.AfterFunc(ctx, p.abort)
	}
	return p, nil
}

// Release ends the permit; after the first call it does nothing. It waits for Redis as a decision does. If Redis fails, the permit
// ends in the background as soon as Redis answers, and at the latest when its lease is over. What [Settle] reported is settled in the
// same step; if that fails, [Config.OnFailure] gets the cause.
func (p *Permit) Release() {
	p.Detach()
	if !p.ended.Swap(true) {
		p.end(p.reported.Load())
	}
}

// Abort is Release for work that broke off: it costs the larger of the cost of Acquire and what [Settle] reported until then. After
// Release or ReleaseCost it does nothing, so that a deferred Abort ends what a panic left.
func (p *Permit) Abort() {
	p.Detach()
	p.abort()
}

func (p *Permit) abort() {
	if !p.ended.Swap(true) {
		p.end(max(p.reported.Load(), int64(p.decision.Cost)))
	}
}

// ReleaseCost is Release for a request whose cost is known only now: the difference to the cost of Acquire is charged,
// below zero if need be, or refunded. A limit with a cost of its own is left alone, and so is the quota of a period that has ended.
// If the permit has ended, it does nothing.
//
// Under a policy without a concurrency limit there is nothing to end, and the difference is settled before ReleaseCost returns, also
// if ctx has ended. The errors are then those of Refund. Otherwise the only error is one that wraps [ErrInvalid], if the cost is out of
// range; the permit is then still held. What is more than a limit can owe is not charged, and [Config.OnFailure] gets [ErrDebt].
func (p *Permit) ReleaseCost(ctx context.Context, actual int64) error {
	if err := validCost(actual); err != nil {
		return err
	}
	p.Detach()
	if p.ended.Swap(true) {
		return nil
	}
	return p.settle(context.WithoutCancel(ctx), actual) // there is no second time
}

// Detach keeps the permit when Acquire's context ends: from then on only Release ends it. It reports false if it comes too late,
// because ctx has ended the permit, and if it was called before, also by Release.
func (p *Permit) Detach() bool { return p.detach == nil || p.detach() }
