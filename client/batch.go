package client

import (
	"context"
	"encoding/json"
	"slices"
)

// maxBody bounds the body of a call. The service reads one megabyte at most.
const maxBody = 900 << 10

// pending is a check that waits to be sent, or for its answer.
type pending struct {
	body      json.RawMessage
	cancelled bool // its caller does not wait any more; guarded by Client.mu
	answer    chan Answer
}

// enqueue adds a check to the next call, and waits for its answer.
func (c *Client) enqueue(ctx context.Context, body json.RawMessage) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	p := &pending{body: body, answer: make(chan Answer, 1)}
	c.mu.Lock()
	c.waiting = append(c.waiting, p)
	first := !c.inFlight
	c.inFlight = true
	c.mu.Unlock()
	if first {
		// Not in the caller's goroutine and context: the checks of others must be sent even if this caller cancels.
		go c.sendAll(context.Background())
	}
	select {
	case answer := <-p.answer:
		return answer.Result, answer.Err
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		select {
		case answer := <-p.answer: // at the same moment
			return answer.Result, answer.Err
		default:
			p.cancelled = true
			return Result{}, ctx.Err()
		}
	}
}

// deliver hands out the answers to the checks of a batch. It ends the permits of those whose callers have left meanwhile.
func (c *Client) deliver(batch []*pending, answers []Answer) {
	var unused []Answer
	c.mu.Lock()
	for i, p := range batch {
		if p.cancelled {
			unused = append(unused, answers[i])
		} else {
			p.answer <- answers[i]
		}
	}
	c.mu.Unlock()
	if len(unused) > 0 {
		go c.endUnused(unused)
	}
}

// sendAll sends calls until no check waits.
func (c *Client) sendAll(ctx context.Context) {
	for batch := c.nextBatch(); len(batch) > 0; batch = c.nextBatch() {
		c.send(ctx, batch)
	}
}

// nextBatch removes the checks of the next call from those that wait. If it returns none, no call is in flight any more.
func (c *Client) nextBatch() []*pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = slices.DeleteFunc(c.waiting, func(p *pending) bool { return p.cancelled })
	n := inOneCall(len(c.waiting), func(i int) json.RawMessage { return c.waiting[i].body })
	batch := slices.Clone(c.waiting[:n])
	c.waiting = slices.Delete(c.waiting, 0, n)
	c.inFlight = n > 0
	return batch
}

// inOneCall returns how many of n checks fit into one call: at least one, unless n is 0.
func inOneCall(n int, body func(i int) json.RawMessage) int {
	size := 0
	for i := range min(n, MaxChecks) {
		if size += len(body(i)) + 1; i > 0 && size > maxBody {
			return i
		}
	}
	return min(n, MaxChecks)
}

// send sends a batch and delivers its answers. It sends nothing twice: a call that is refused as a whole fails for each of its
// checks.
func (c *Client) send(ctx context.Context, batch []*pending) {
	if len(batch) == 1 {
		r, err := c.callOne(ctx, "/v1/check", batch[0].body)
		c.deliver(batch, []Answer{{Result: r, Err: err}})
		return
	}
	bodies := make([]json.RawMessage, len(batch))
	for i, p := range batch {
		bodies[i] = p.body
	}
	answers, err := c.callMany(ctx, bodies)
	if err != nil {
		answers = slices.Repeat([]Answer{{Err: err}}, len(batch))
	}
	c.deliver(batch, answers)
}
