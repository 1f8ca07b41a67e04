// Package porttest holds the contract of a [ports.BucketStore] as a test that every store runs.
package porttest

import (
	"testing"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Fixture is a new, empty store whose clock the test controls.
type Fixture struct {
	Store ports.BucketStore
	// Advance moves the store's clock, which otherwise stands still; a negative d sets it back.
	Advance func(d time.Duration)
	// Holds reports whether the store still keeps a bucket for a key. A bucket that has expired by the store's clock does
	// not count.
	Holds func(key clientkey.BucketKey) bool
	// Foreign replaces what is kept for a key by values that are no buckets, one after the other, and calls check after each.
	// It is nil for a store that no other program can write to.
	Foreign func(key clientkey.BucketKey, check func())
}

// Harness makes fixtures.
type Harness struct {
	New func(t *testing.T) Fixture
	// Unreachable returns a store whose servers cannot be reached, and the time within which it must answer. It is nil for a
	// store without servers.
	Unreachable func(t *testing.T) (store ports.BucketStore, budget time.Duration)
	// Spare is how long the store keeps a bucket after it is full again, for limits that fill within 16 s. Zero means that
	// the bucket is removed at once.
	Spare time.Duration
}

// TestBucketStore tests the contract of [ports.BucketStore]. Every store must pass it unchanged.
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
		{"an invalid request is refused, and its neighbours are decided", invalidIsRefused},
		{"refill is linear and capped", refillIsLinear},
		{"fractions of a token accumulate", fractionsAccumulate},
		{"waiting exactly RetryAfter is enough, a tick less is not", retryAfterIsExact},
		{"different keys have different buckets", keysAreApart},
		{"hostile keys have different buckets", hostileKeysAreApart},
		{"a changed limit keeps the tokens", changedLimitConverts},
		{"limits of one key are distinguished by name", limitsAreNamed},
		{"a clock set back refills nothing, and refill starts again from there", clockSetBack},
		{"a refund stops at full", refundStopsAtFull},
		{"a charge goes below zero, within bounds", chargeGoesBelowZero},
		{"a reset fills the named limits", resetFills},
		{"a reset replaces what is no bucket", resetRepairs},
		{"equal keys in one call are decided in order", equalKeysInOrder},
		{"a large call is answered slot by slot", largeCall},
		{"slots are overwritten", slotsAreOverwritten},
		{"of concurrent takes exactly the capacity pass", concurrentTakes},
		{"a cancelled context returns at once", endedContext},
		{"an idle bucket vanishes and comes back full", idleVanishes},
		{"a quota admits exactly its tokens in each period, by the store's clock", quotaIsExact},
		{"quotas of many periods in one call", quotasInOneCall},
		{"a refund to a quota stops at unused", quotaRefund},
		{"the debt of a quota ends with its period", quotaDebt},
		{"a bucket and a quota are taken together or not at all", mixedKinds},
		{"what was taken before a quota's period changes nothing in it", takenBeforeThePeriod},
		{"a reset makes a quota unused", quotaReset},
		{"a changed quota keeps what was used since its new period began", changedQuota},
		{"a quota whose period became longer is kept from the next take on", longerQuota},
		{"a limit whose kind has changed starts anew", changedKind},
		{"a clock set back makes no client wait longer than a period", quotaClockSetBack},
		{"an idle quota vanishes when its period ends", idleQuotaVanishes},
		{"a limit's own cost is taken, and no refund or charge touches it", costOfTheLimit},
		{"a settling charges what a limit can owe, or refunds, and is never refused", settlingIsNeverRefused},
		{"an undo gives back exactly what each limit took", undoIsExact},
		{"equal takes in one call pass as if asked one after the other", equalTakes},
		{"equal requests in one call are decided as if asked one after the other", equalRequests},
		{"no more permits are held at once than the limit has", permitsAreBounded},
		{"a released permit is free at once, and a second release does nothing", releaseFrees},
		{"a release settles its cost in the same step, once", releaseSettles},
		{"a lease ends by the store's clock", leaseEnds},
		{"a renewal gives a new lease, if the permit is held", renewExtends},
		{"a permit of two limits is renewed for both or not at all", permitOfTwoLimits},
		{"a peek takes no permit", peekTakesNoPermit},
		{"an undo gives the permit back", undoEndsThePermit},
		{"a reset ends no permit", resetLeavesPermits},
		{"a refund and a charge leave permits alone", costsLeavePermits},
		{"permits and tokens are taken together or not at all", permitsAndTokens},
		{"permits in one call are decided in order", permitsInOneCall},
		{"concurrent holders never hold more permits than the limit has", concurrentHolders},
		{"permits after a clock set back end at their time, or by their renewal", permitsAndClockSetBack},
		{"permits are listed by limit, those that expire first before others", permitsAreListed},
		{"of many permits the first are listed", manyPermitsAreListed},
		{"a take may borrow what its bucket refills within its longest wait", takesBorrow},
		{"no take waits longer than it may, and waiting RetryAfter is enough", waitsAreBounded},
		{"only buckets lend", onlyBucketsLend},
		{"equal takes in one call wait as if asked one after the other", waitsInOneCall},
		{"operations other than takes do not wait", othersDoNotWait},
		{"an unreachable store returns ErrUnavailable within its budget", unreachable},
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.run(t, h) })
	}
}
