// Package domain is the arithmetic of limits.
//
// It answers one question: may n tokens be spent from these limits at this instant? Time is an argument and
// state is a value. Nothing here blocks, logs or knows where a state is stored. It imports the standard
// library only. The packages below it build on it: calendar finds the periods of quotas, limitspec reads limits as people write
// them, clientkey names buckets, policy finds the limits of a request, decision describes the answer. The errors of all of them
// are here.
//
// # The arithmetic
//
// No floating point decides anything. A [TokenBucket] of Capacity tokens, refilled by Refill tokens per Per, is
// converted to integers once, by [NewBucket]. Time is counted in ticks of 1 us or 1 ms. With P ticks in Per
// and g = gcd(Refill, P), a token is worth p = P/g credits and a tick adds r = Refill/g credits: both are
// whole numbers, so a level counted in [Credits] is always exact. Every level and every product stays within
// 2^53, so that a store can repeat the same steps in IEEE 754 doubles (Lua in Redis) with the same result.
//
// A [Quota] counts the whole tokens that were used in the current period, and the instant of their last change. A period
// begins where the last one ends, and has its first instant, but not its end.
//
// A [Concurrency] counts the permits that are held, in [Permits]. A permit is held from its take until it is released or its
// lease ends; at that instant it is not held any more.
//
// # The invariants
//
// For one bucket and any window of time, admitted - refunded <= Capacity + Refill * elapsed / Per, with elapsed in whole
// ticks, rounded up. For one quota and any of its periods, admitted - refunded <= Quota. For one concurrency limit and any
// instant, the permits that were granted, are not released and have not expired are at most as many as the limit has. All times
// are of the clock of the store that decides.
//
// A take that may wait borrows from the refill of its buckets, and counts at its decision + its wait. So the bound above holds
// for waiting takes too, and a bucket serves takes in the order in which it decides them. A wait is rounded up to a tick, by
// which a window that begins with its end may be shorter. What is refunded while takes wait makes place at once, before they are
// served: then a window begins with the decision of its first take, and ends when its last one is served. No wait is longer than
// the request allowed. Quotas and permits lend nothing. Each bucket counts a take by its own wait; a request waits for the
// longest of them.
//
// A request is denied only if a limit has fewer tokens left than the request costs it, with those that it would lend. Rounding
// is always against the client: a level rounds down, a wait rounds up.
//
// # Clocks that go back
//
// A bucket refills nothing until its clock has passed the instant to which the clock went back, and then as usual. A quota
// still counts what was used at a later instant; from then on, that counts as used now. So no client waits longer than an
// empty bucket fills or a period lasts. If the clock leaves a period and comes back, each of the two periods may admit the
// quota once more, each time. A permit that has expired stays so; others end at the instant that they had, or a lease after
// they are next renewed. So one whose holder died may be held for longer, by as much as the clock went back.
package domain
