package batch

import (
	"context"
	"errors"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
)

// ask has the server decide the groups, and gives each of their requests its result. A panic becomes an error: the goroutine may be that of any caller, or one of the
// batcher's, where a panic would end the process. So the failure policy decides, as after other failures.
func (b *Batcher) ask(ctx context.Context, groups []*script.Group) (err error) {
	defer b.recoverTo(&err)
	if err := b.server.Send(ctx, groups, b.clock.now()); err != nil {
		return err
	}
	b.clock.learn(groups)
	// The server has done nothing for these, and its time is known now. Before the nodes of a Cluster are known, one batch may
	// go to several, each with its own time: the groups of one node are decided, those of the others are left.
	for again := wrongPeriods(groups); len(again) > 0; {
		if err := b.server.Send(ctx, again, again[0].Result.Now); err != nil {
			for _, g := range again {
				Fail(&g.Result, err)
			}
		}
		left := wrongPeriods(again)
		if len(left) == len(again) { // the clock has jumped meanwhile
			break
		}
		again = left
	}
	for _, g := range groups {
		g.Settle()
	}
	return nil
}

// wrongPeriods returns the groups that the server did not decide, because it was sent wrong periods of their quotas.
func wrongPeriods(groups []*script.Group) (wrong []*script.Group) {
	for _, g := range groups {
		if errors.Is(g.Result.Err, script.ErrWrongPeriod) {
			wrong = append(wrong, g)
		}
	}
	return wrong
}

// recoverTo reports a panic of the calling function, and turns it into an error. Defer it.
func (b *Batcher) recoverTo(err *error) {
	if reason := recover(); reason != nil {
		*err = script.Unavailable(b.server.Name, b.events.Panicked(b.server.Name, reason))
	}
}
