// Package domain holds the nouns of rate limiting and the arithmetic of the token bucket.
//
// It answers one question, purely: may n tokens be spent from these buckets at this instant? Time is an
// argument, state is a value, and nothing here blocks, logs or knows where a bucket is kept. It imports the
// standard library alone.
//
// # The arithmetic
//
// No floating point decides anything. A [Limit] of Capacity tokens, refilled by Refill tokens per Per, is
// worked out in integers once, by [NewLimit]. Time is counted in ticks of 1 us or 1 ms. With P ticks in Per
// and g = gcd(Refill, P), a token is worth p = P/g credits and a tick adds r = Refill/g credits: both are
// whole, so a level counted in [Credits] is exact for ever. Every level and every product stays within 2^53,
// which is what lets a store repeat the same steps in IEEE 754 doubles (Redis's Lua) bit for bit.
//
// # The law
//
// For one bucket and any window of time, admitted <= Capacity + Refill * elapsed / Per, with elapsed in whole
// ticks, rounded up; and a denial happens only when the tokens were not there. Rounding is always against
// the client: a level rounds down, a wait rounds up.
package domain
