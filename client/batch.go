package client

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
)

// maxBody keeps a call of checks below the megabyte that the service reads.
const maxBody = 900 << 10

// asked is a check that waits for its call, or for the answer.
type asked struct {
	body   json.RawMessage
	gone   bool // its caller left before the call was sent; guarded by Client.mu
	answer chan Answer
}

// enqueue has a check ride in the next call, and waits for its answer.
func (c *Client) enqueue(ctx context.Context, body json.RawMessage) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	a := &asked{body: body, answer: make(chan Answer, 1)}
	c.mu.Lock()
	c.waiting = append(c.waiting, a)
	first := !c.inFlight
	c.inFlight = true
	c.mu.Unlock()
	if first {
		// Neither in the caller's goroutine nor in its context: it may leave, and those behind it must still be sent.
		go c.sendAll(context.Background())
	}
	select {
	case answer := <-a.answer:
		return answer.Result, answer.Err
	case <-ctx.Done():
		c.mu.Lock()
		a.gone = true
		c.mu.Unlock()
		return Result{}, ctx.Err()
	}
}

// sendAll sends call after call until nobody waits.
func (c *Client) sendAll(ctx context.Context) {
	for {
		batch := c.nextBatch()
		if len(batch) == 0 {
			return
		}
		c.send(ctx, batch)
	}
}

// nextBatch takes what waits, as much as one call may hold. With nothing left, no call is in flight any more.
func (c *Client) nextBatch() []*asked {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = slices.DeleteFunc(c.waiting, func(a *asked) bool { return a.gone })
	n, size := 0, 0
	for n < len(c.waiting) && n < MaxChecks {
		size += len(c.waiting[n].body) + 1
		if n > 0 && size > maxBody {
			break
		}
		n++
	}
	batch := slices.Clone(c.waiting[:n])
	c.waiting = slices.Delete(c.waiting, 0, n)
	c.inFlight = n > 0
	return batch
}

// send answers everyone in a batch.
func (c *Client) send(ctx context.Context, batch []*asked) {
	if len(batch) == 1 {
		c.sendAlone(ctx, batch[0])
		return
	}
	bodies := make([]json.RawMessage, len(batch))
	for i, a := range batch {
		bodies[i] = a.body
	}
	answers, err := c.callMany(ctx, bodies)
	switch {
	case errors.Is(err, ErrInvalid):
		// One of them cannot be read, and nothing was decided: each is asked alone, so that only its own caller hears of
		// it.
		for _, a := range batch {
			c.sendAlone(ctx, a)
		}
	case err != nil:
		for _, a := range batch {
			a.answer <- Answer{Err: err}
		}
	default:
		for i, a := range batch {
			a.answer <- answers[i]
		}
	}
}

func (c *Client) sendAlone(ctx context.Context, a *asked) {
	r, err := c.callOne(ctx, "/v1/check", a.body)
	a.answer <- Answer{Result: r, Err: err}
}
