package batch

import (
	"context"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// A request whose slot is moving from one node of a Cluster to another is sent again after pauses, each twice as long as the one
// before: six take 63 to 79 ms in all. The default budget allows four.
const (
	firstMovePause = time.Millisecond
	mostMovePauses = 6
)

// followMoves sends the requests again that a node refused because it does not have all of their keys, as long as half of the budget
// of the call that began at that time remains for the node. Nothing has run for them. Only their caller waits: the others of the
// batch have their results. The batch that such a request is sent in ends when the request's budget does. A request that is still
// refused in the end keeps its error; one that waits too long to be sent has the error of that, such as ports.ErrOverloaded, for
// which a policy that fails open has this process decide.
func (b *Batcher) followMoves(
	ctx context.Context, began time.Time, reqs []ports.TakeRequest, indexes []int, results []ports.TakeResult,
) {
	for pause := firstMovePause; pause < firstMovePause<<mostMovePauses; pause *= 2 {
		if indexes = moving(indexes, results); len(indexes) == 0 {
			return
		}
		wait := jittered(pause)
		if time.Since(began)+wait > b.budget/2 {
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done(): // of which decide returns the error
		}
		if err := b.decide(ctx, began, reqs, indexes, results); err != nil {
			for _, at := range indexes {
				Fail(&results[at], err)
			}
			return
		}
	}
}

// moving returns the indexes of the requests whose keys are moving.
func moving(indexes []int, results []ports.TakeResult) (list []int) {
	for _, at := range indexes {
		if script.Moving(results[at].Err) {
			list = append(list, at)
		}
	}
	return list
}
