//go:build faults

package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/measure"
)

// fault is one way in which a store fails: how it begins and ends, and what clients must see meanwhile. It strikes the
// first shard of two.
type fault struct {
	kind  string
	fleet fleetConfig
	// prepare makes the fleet's configuration where that takes a test.
	prepare func(t *testing.T) fleetConfig
	// begin breaks something, end mends it, and returns when the server could write again.
	begin, end func(t *testing.T, f *fleet)
	// lasts is for how long it is broken; 0: a second.
	lasts   time.Duration
	answers answers
	// forgets is what the servers may have lost; nil: nothing.
	forgets func(t *testing.T, f *fleet) loss
	// jumps: the server's clock gains time, which the shortcut cannot know within its maximum age.
	jumps bool
	// alone: the servers' clocks are set back, so the order of what happened is not their time's.
	alone bool
}

// answers says who answers the clients of the broken shard while it is broken.
type answers int

const (
	// byRedis: the store hides the fault, or waits it out within its budget.
	byRedis answers = iota
	// byPolicy: the failure policy does, once the fault has been noticed.
	byPolicy
	// byEither: some answers come through.
	byEither
)

// faults are all kinds.
func faults() []fault {
	return slices.Concat(networkFaults(), peerFaults(), processFaults(), commandFaults(), refusalFaults(), keyFaults(),
		topologyFaults(), clockFaults())
}

// outcome is what was seen of a fault.
type outcome struct {
	Kind        string
	Answers     string
	Recovery    time.Duration
	Slowest     time.Duration
	Decisions   int64
	Fallbacks   float64 // part of the answers while it lasted
	Forgets     loss
	Extra       int64   // tokens
	ExtraOfMost float64 // the largest part of its bound that one bucket gained
	Doubled     int64
	Unjust      int64
	Passed      bool
}

func (o *outcome) String() string {
	return fmt.Sprintf("%s: %.0f %% fallback, slowest %v, back after %v, %d decisions, %d extra (%.2f of the bound), %d doubled, %d unjust",
		o.Kind, 100*o.Fallbacks, o.Slowest.Round(time.Millisecond), o.Recovery.Round(time.Millisecond), o.Decisions,
		o.Extra, o.ExtraOfMost, o.Doubled, o.Unjust)
}

// TestFaults breaks one thing at a time.
func TestFaults(t *testing.T) {
	kinds := map[string]bool{}
	for _, f := range faults() {
		require.False(t, kinds[f.kind], f.kind)
		kinds[f.kind] = true
		t.Run(f.kind, func(t *testing.T) {
			if !measure.Exact() {
				t.Parallel()
			}
			o := &outcome{Kind: f.kind}
			defer func() { // also of one that ends at once
				t.Log(o.String())
				o.Passed = !t.Failed()
				measure.Keep(t, "fault-"+slug(o.Kind), o)
			}()
			f.run(t, o)
		})
	}
	require.GreaterOrEqual(t, len(kinds), 30)
}

func (x *fault) run(t *testing.T, o *outcome) {
	cfg := x.fleet
	if x.prepare != nil {
		cfg = x.prepare(t)
	}
	cfg.ordered = x.alone
	f := startFleet(t, cfg)
	l := startLoad(f, rand.Uint64(), &load{workers: 16, clients: 4, pace: 2 * time.Millisecond, alone: x.alone})
	t.Cleanup(l.end)
	l.awaitRecovery(t, 0) // connected

	calmly := time.Second
	if x.lasts > 0 {
		calmly = x.lasts
	}
	x.begin(t, f)
	time.Sleep(calmly / 2) // until it has been noticed
	var answers int64
	for looks := x.looks(); looks > 0; looks-- {
		half := l.counts(0)
		time.Sleep(calmly / 2)
		if o.Fallbacks, answers = l.share(0, half); o.Fallbacks < mostHidden {
			break
		}
	}
	x.end(t, f)
	o.Recovery = l.awaitRecovery(t, 0)
	x.checkAnswers(t, o.Fallbacks, answers)
	l.end()
	o.Decisions, o.Slowest = l.decisions.Load(), time.Duration(l.slowest.Load())
	if wrong := l.wrong.Load(); wrong != nil {
		assert.Fail(t, "a client got a wrong answer", *wrong)
	}
	if measure.Exact() {
		assert.LessOrEqual(t, o.Recovery, recoverTimeout)
	}
	x.judge(t, f, o)
}

// mostHidden is the part of the answers that the fallback gives at most while the store hides a fault.
const mostHidden = 0.1

// looks is how often the answers are looked at. Where the store hides the fault, and a machine so busy that calls miss
// the budget by itself opens a breaker for a moment, a later look finds it hidden; one that is not hidden never is.
func (x *fault) looks() int {
	if x.answers == byRedis && !measure.Exact() {
		return 10
	}
	return 1
}

func (x *fault) checkAnswers(t *testing.T, fallbacks float64, answers int64) {
	t.Helper()
	require.Positive(t, answers, "nobody was answered")
	switch x.answers {
	case byRedis:
		assert.Less(t, fallbacks, mostHidden, "the store hides it")
	case byPolicy:
		assert.Greater(t, fallbacks, 0.9, "the failure policy answers")
	case byEither:
	}
}

// judge holds all that was decided against the law.
func (x *fault) judge(t *testing.T, f *fleet, o *outcome) {
	t.Helper()
	if x.forgets != nil {
		o.Forgets = x.forgets(t, f)
	}
	require.Eventually(t, func() bool { return f.redis.peek(t.Context(), anyShard) == nil }, patience, 10*time.Millisecond)
	found := f.redis.judge(allSettled, func(int) loss { return o.Forgets })
	o.Extra, o.ExtraOfMost, o.Doubled, o.Unjust = found.extra(), found.Worst, found.Doubled, found.Unjust
	if o.Forgets == (loss{}) {
		assert.Zero(t, o.Extra, "tokens beyond the law: %+v", found.First)
	}
	assert.LessOrEqual(t, o.ExtraOfMost, 1.0, "beyond what may be lost: %+v", found.First)
	if o.Forgets.Split == 0 {
		assert.Zero(t, found.Doubled, "debited twice: %+v", found.First)
	} // else the two primaries count each by itself
	assert.Zero(t, found.Unjust, "denied without need: %+v", found.First)
	if o.Forgets == (loss{}) && !x.jumps {
		assert.Zero(t, found.UnjustRepeated, "denied without need: %+v", found.First)
	}
	local := f.local.judge(allSettled, func(int) loss { return loss{} })
	assert.Empty(t, local.First, "the local store keeps the law, too")
}

func allSettled(int) bool { return true }

// nothing is for a fault that begins or ends by itself.
func nothing(*testing.T, *fleet) {}

// once is for a fault in which the servers lose their data once.
func once(*testing.T, *fleet) loss { return loss{Times: 1} }

// split is for a failover in which the old primary lives on for a while.
func split(_ *testing.T, f *fleet) loss { return loss{Times: 1, Split: f.split} }

// slug is a kind as a file's name.
func slug(kind string) string {
	return strings.ReplaceAll(strings.ReplaceAll(kind, " ", "-"), "/", "-")
}
