package domain

import "time"

// Bucket is the state of one limit for one client. The zero value is a bucket that was never stored: it is
// full. It is a plain value; whoever keeps it guards it.
type Bucket struct {
	// Credits is the level; below zero after a charge.
	Credits Credits
	// At is the instant up to which refilling has been counted.
	At Instant
	// TokenCredits is what a token was worth when the level was stored, so that a changed limit can convert it.
	TokenCredits Credits
}

// Full returns a bucket that is full at now.
func (l *Limit) Full(now Instant) Bucket {
	return Bucket{Credits: l.full, At: now, TokenCredits: l.tokenCredits}
}

// Seen returns b as this limit sees it at now: converted to the limit's credits if the limit has changed, then
// refilled by the whole ticks that have passed.
//
//   - The fraction of a tick stays: At advances by whole ticks only, unless the bucket is full, when it becomes now.
//   - A clock that went back refills nothing, and At becomes now: otherwise a poor client would starve until the
//     clock catches up.
func (l *Limit) Seen(b Bucket, now Instant) Bucket {
	if b.TokenCredits == 0 {
		return l.Full(now)
	}
	b = l.converted(b)
	if b.At >= now {
		b.At = now
		return b
	}
	elapsed := int64(now-b.At) / l.tickMicros
	// Compared before it is multiplied: elapsed * r may pass 2^63.
	if elapsed >= ceilDiv(int64(l.full-b.Credits), int64(l.tickCredits)) {
		return l.Full(now)
	}
	b.Credits += Credits(elapsed * int64(l.tickCredits))
	b.At += Instant(elapsed * l.tickMicros)
	return b
}

// converted keeps a bucket's tokens under a changed limit: whole tokens, at most the capacity, and of the
// fraction what rounding down leaves. A debt above the whole tokens of the bound becomes the bound.
func (l *Limit) converted(b Bucket) Bucket {
	if b.TokenCredits != l.tokenCredits {
		whole := floorDiv(int64(b.Credits), int64(b.TokenCredits))
		fraction := int64(b.Credits) - whole*int64(b.TokenCredits)
		switch {
		case whole >= int64(l.capacity):
			b.Credits = l.full
		case -whole > int64(l.maxDebt/l.tokenCredits): // compared as a quotient: whole * p may pass 2^63
			b.Credits = -l.maxDebt
		default:
			b.Credits = Credits(whole*int64(l.tokenCredits) +
				mulDiv(fraction, int64(l.tokenCredits), int64(b.TokenCredits)))
		}
		b.TokenCredits = l.tokenCredits
	}
	b.Credits = max(min(b.Credits, l.full), -l.maxDebt)
	return b
}

// Affords reports whether b, as seen now, can pay cost. A cost above the capacity is refused before anything is
// multiplied.
func (l *Limit) Affords(b Bucket, cost Tokens) bool {
	return cost <= l.capacity && b.Credits >= Credits(cost)*l.tokenCredits
}

// Remaining is the level in whole tokens, rounded down; below zero after a charge.
func (l *Limit) Remaining(b Bucket) Tokens {
	return Tokens(floorDiv(int64(b.Credits), int64(l.tokenCredits)))
}

// RetryAfter is how long after now a lone client must wait until b can pay cost: 0 if it can already, [Never] if
// the cost is above the capacity. Waiting exactly so long is enough, a microsecond less is not. b is as seen at now.
func (l *Limit) RetryAfter(b Bucket, cost Tokens, now Instant) time.Duration {
	if cost > l.capacity {
		return Never
	}
	return l.until(b, Credits(cost)*l.tokenCredits, now)
}

// ResetAfter is how long after now the bucket is full again. b is as seen at now.
func (l *Limit) ResetAfter(b Bucket, now Instant) time.Duration { return l.until(b, l.full, now) }

// NextToken is how long after now one more whole token can be spent than can now; 0 when the bucket is full.
// b is as seen at now.
func (l *Limit) NextToken(b Bucket, now Instant) time.Duration {
	if b.Credits >= l.full {
		return 0
	}
	return l.until(b, (Credits(max(l.Remaining(b), 0))+1)*l.tokenCredits, now)
}

// FullAt is the instant at which the bucket is full again: from then on it need not be stored.
func (l *Limit) FullAt(b Bucket) Instant {
	missing := ceilDiv(int64(l.full-b.Credits), int64(l.tickCredits))
	return b.At + Instant(missing*l.tickMicros)
}

func (l *Limit) until(b Bucket, level Credits, now Instant) time.Duration {
	if b.Credits >= level {
		return 0
	}
	missing := ceilDiv(int64(level-b.Credits), int64(l.tickCredits))
	return (b.At + Instant(missing*l.tickMicros)).Sub(now)
}
