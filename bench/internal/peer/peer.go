// Package peer says what a rate limiter is to this benchmark, Velocity among them.
package peer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Limit is a token bucket's rule: Capacity tokens, refilled by Tokens per Per.
type Limit struct {
	Tokens   int
	Per      time.Duration
	Capacity int
}

// Window is the fixed window that comes closest, for limiters that know nothing else: one that passes Capacity, and as
// many over a long time as the bucket.
func (l Limit) Window() time.Duration {
	return l.Per * time.Duration(l.Capacity) / time.Duration(l.Tokens)
}

// String is meant for people.
func (l Limit) String() string {
	return fmt.Sprintf("%d per %v, capacity %d", l.Tokens, l.Per, l.Capacity)
}

// Take asks for one token for a client. One goroutine at a time calls it.
type Take func(ctx context.Context, client string) (allowed bool, err error)

// Limiter is a running limiter, under one limit or several.
type Limiter struct {
	// NewTake returns a worker's way in, with the buffers that it keeps for itself. Safe for concurrent use.
	NewTake func() Take
	// Close releases what the limiter holds; nil if it holds nothing.
	Close func() error
}

// Shared makes a limiter of one Take that any number of goroutines may call.
func Shared(take Take, closer func() error) *Limiter {
	return &Limiter{NewTake: func() Take { return take }, Close: closer}
}

// Both asks first, then second, and passes what both let pass: what the user of a limiter without groups must do for
// two limits. A token that the first gave is not returned when the second denies. The second knows the client by
// another name, for limiters that would keep both limits under one key.
func Both(first, second *Limiter) *Limiter {
	return &Limiter{
		NewTake: func() Take {
			takeFirst, takeSecond := first.NewTake(), second.NewTake()
			return func(ctx context.Context, client string) (bool, error) {
				allowed, err := takeFirst(ctx, client)
				if err != nil || !allowed {
					return false, err
				}
				return takeSecond(ctx, client+"/second")
			}
		},
		Close: func() error { return errors.Join(first.Shut(), second.Shut()) },
	}
}

// Shut closes a limiter that may have nothing to close.
func (l *Limiter) Shut() error {
	if l.Close == nil {
		return nil
	}
	return l.Close()
}
