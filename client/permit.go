package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"
)

// Release ends a permit, which is Permit of a [Result]. Call it when the request has ended that the permit was for.
//
// If cost is not nil, that is what the request cost in the end: the difference to what the check took is charged or refunded,
// once. Limits with a cost of their own are left alone.
//
// Release reports false, and charges and refunds nothing, if the permit had ended before: it was released, or its lease is over. So it may
// be called again after any error, and should be after one that wraps [ErrUnavailable]. The context of a request that its client
// has left has ended: use [context.WithoutCancel].
func (c *Client) Release(ctx context.Context, permit string, cost *int64) (released bool, err error) {
	var answer struct {
		Released *bool `json:"released"`
	}
	if err := c.postPermit(ctx, "/v1/release", permit, cost, &answer); err != nil {
		return false, err
	}
	if answer.Released == nil {
		return false, unreadable(errors.New("it has no member released"))
	}
	return *answer.Released, nil
}

// Renew gives a permit a new lease, and returns how long it is, from now. A request that may take longer than the lease has its
// permit renewed several times within each lease. The error wraps [ErrPermitEnded] if the permit has ended: others may hold one
// in its place. Renew may be called again after any other error.
func (c *Client) Renew(ctx context.Context, permit string) (lease time.Duration, err error) {
	var answer struct {
		ExpiresAfterMS int64 `json:"permit_expires_after_ms"`
	}
	if err := c.postPermit(ctx, "/v1/renew", permit, nil, &answer); err != nil {
		if p, ok := errors.AsType[*Error](err); ok {
			p.ended = p.Status == http.StatusNotFound
		}
		return 0, err
	}
	if answer.ExpiresAfterMS <= 0 {
		return 0, unreadable(errors.New("it has no positive member permit_expires_after_ms"))
	}
	return millis(answer.ExpiresAfterMS), nil
}

// postPermit sends a permit, and reads the answer.
func (c *Client) postPermit(ctx context.Context, path, permit string, cost *int64, answer any) error {
	if !utf8.ValidString(permit) {
		return fmt.Errorf("%w: permit: must be UTF-8", ErrInvalid)
	}
	body, err := json.Marshal(struct {
		Permit string `json:"permit"`
		Cost   *int64 `json:"cost,omitempty"`
	}{permit, cost})
	if err != nil {
		return err
	}
	text, err := c.post(ctx, path, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return unreadable(err)
	}
	return nil
}

// endUnused ends the permits of answers that no caller gets. One that it cannot end, ends with its lease.
func (c *Client) endUnused(answers []Answer) {
	for i := range answers {
		if permit := answers[i].Result.Permit; permit != "" {
			_, _ = c.Release(context.Background(), permit, nil)
		}
	}
}
