package porttest

import "testing"

// TestBucketStore is the contract of ports.BucketStore. Every store passes it, unchanged.
func TestBucketStore(t *testing.T, h Harness) {
	scenarios := []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"a new key has a full bucket", newKeyIsFull},
		{"a denial spends nothing", denialSpendsNothing},
		{"all limits are taken or none", allOrNone},
		{"a cost above the capacity can never pass", costAboveCapacity},
		{"a peek writes nothing", peekWritesNothing},
		{"what cannot be carried out is refused, and its neighbours are decided", invalidIsRefused},
		{"refill is linear and capped", refillIsLinear},
		{"fractions of a token accumulate", fractionsAccumulate},
		{"waiting exactly RetryAfter is enough, a tick less is not", retryAfterIsExact},
		{"keys do not touch each other", keysAreApart},
		{"hostile keys stay apart", hostileKeysAreApart},
		{"a changed limit keeps the tokens", changedLimitConverts},
		{"limits of one key are told apart by name", limitsAreNamed},
		{"a clock set back refills nothing and starves nobody", clockSetBack},
		{"a refund stops at full", refundStopsAtFull},
		{"a charge goes below zero, within bounds", chargeGoesBelowZero},
		{"a reset fills the named limits", resetFills},
		{"equal keys in one call are decided in order", equalKeysInOrder},
		{"a large call is answered slot by slot", largeCall},
		{"slots are overwritten", slotsAreOverwritten},
		{"of concurrent takes exactly the capacity pass", concurrentTakes},
		{"an ended context returns at once", endedContext},
		{"an idle bucket vanishes and comes back full", idleVanishes},
		{"an unreachable store says so within its budget", unreachable},
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.run(t, h) })
	}
}
