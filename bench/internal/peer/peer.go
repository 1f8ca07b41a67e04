// Package peer defines what this benchmark calls a rate limiter. Velocity is one of them.
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

// Window returns the closest fixed window, for limiters that have no bucket: it allows Capacity in each window, and as many
// over a long time as the bucket.
func (l Limit) Window() time.Duration {
	return l.Per * time.Duration(l.Capacity) / time.Duration(l.Tokens)
}

// String returns a text for tables.
func (l Limit) String() string {
	return fmt.Sprintf("%d per %v, capacity %d", l.Tokens, l.Per, l.Capacity)
}

// Take asks for one token for a client. It is not safe for concurrent use.
type Take func(ctx context.Context, client string) (allowed bool, err error)

// Limiter is a running limiter, under one limit or several.
type Limiter struct {
	// NewTake returns a Take for one worker, with buffers of its own. It is safe for concurrent use.
	NewTake func() Take
	// Close releases what the limiter holds; nil if it holds nothing.
	Close func() error
}

// Shared makes a limiter of one Take that any number of goroutines may call.
func Shared(take Take, closer func() error) *Limiter {
	return &Limiter{NewTake: func() Take { return take }, Close: closer}
}

// Renamed is a limiter that knows a client by another name. It is nil if l is.
func Renamed(l *Limiter, name func(client string) string) *Limiter {
	if l == nil {
		return nil
	}
	return &Limiter{Close: l.Close, NewTake: func() Take {
		take := l.NewTake()
		return func(ctx context.Context, client string) (bool, error) { return take(ctx, name(client)) }
	}}
}

// Both asks first, then second, and allows what both allow: users of a limiter without groups must do so for two limits. A
// token of the first is not returned when the second denies. The second gets another name for the client, since some
// limiters would keep both limits under one key.
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

// Shut calls Close if it is not nil.
func (l *Limiter) Shut() error {
	if l.Close == nil {
		return nil
	}
	return l.Close()
}
