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

// fault is one way in which a store fails: how it begins, how it ends, and who answers clients meanwhile. It affects the
// first of two shards.
type fault struct {
	kind  string
	fleet fleetConfig
	// prepare replaces fleet where the configuration needs a *testing.T.
	prepare func(t *testing.T) fleetConfig
	// begin injects the fault. end removes it, and returns when the server can write again.
	begin, end func(t *testing.T, f *fleet)
	// lasts is the duration of the fault; 0 means one second.
	lasts   time.Duration
	answers answers
	// dataLoss returns what the servers may have lost; nil means nothing.
	dataLoss func(t *testing.T, f *fleet) loss
	// clockJumps means that the server's clock jumps ahead. The denial cache cannot notice that within its maximum age.
	clockJumps bool
	// sequential means that the server's clock is set back, so that records cannot be ordered by time. Each client then
	// has one worker.
	sequential bool
}

// answers says who answers the clients of the shard during the fault.
type answers int

const (
	// byRedis: Redis answers. The store hides the fault, or waits within its budget.
	byRedis answers = iota
	// byPolicy: the failure policy answers once the fault is detected.
	byPolicy
	// byEither: either may answer.
	byEither
)

// faults returns all kinds of faults.
func faults() []fault {
	return slices.Concat(networkFaults(), proxyFaults(), processFaults(), commandFaults(), refusalFaults(), keyFaults(),
		topologyFaults(), clockFaults())
}

// outcome is the result of one fault.
type outcome struct {
	Kind          string
	Recovery      time.Duration
	Slowest       time.Duration
	Decisions     int64
	Fallbacks     float64 // share of the answers during the fault
	Loss          loss
	Extra         int64   // tokens
	ShareOfBound  float64 // the largest share of its bound that one bucket gained
	DoubleDebited int64
	FalseDenials  int64
	Passed        bool
}

func (o *outcome) String() string {
	return fmt.Sprintf("%s: %.0f %% fallback, slowest %v, recovered after %v, %d decisions, %d extra tokens (%.2f of the bound), %d debited twice, %d false denials",
		o.Kind, 100*o.Fallbacks, o.Slowest.Round(time.Millisecond), o.Recovery.Round(time.Millisecond), o.Decisions,
		o.Extra, o.ShareOfBound, o.DoubleDebited, o.FalseDenials)
}

// TestFaults injects one fault at a time.
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
			defer func() { // also if the test ends early
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
	const clients = 4
	cfg := x.fleet
	if x.prepare != nil {
		cfg = x.prepare(t)
	}
	cfg.ordered = x.sequential
	f := startFleet(t, cfg)
	l := startLoad(f, rand.Uint64(), &load{workers: clients * len(policyNames), clients: clients, pace: 2 * time.Millisecond, sequential: x.sequential})
	t.Cleanup(l.end)
	l.awaitRecovery(t, 0) // connected

	duration := time.Second
	if x.lasts > 0 {
		duration = x.lasts
	}
	x.begin(t, f)
	time.Sleep(duration / 2) // until the fault is detected
	var answers int64
	for n := x.attempts(); n > 0; n-- {
		half := l.counts(0)
		time.Sleep(duration / 2)
		if o.Fallbacks, answers = l.fallbackShare(0, half); o.Fallbacks < maxHiddenFallbacks {
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
	x.check(t, f, o)
}

// maxHiddenFallbacks is the largest share of fallback answers while the store hides a fault.
const maxHiddenFallbacks = 0.1

// attempts returns how often the share of fallbacks is measured. On a busy machine calls may exceed the budget without a
// fault, and open a breaker for a moment. A later attempt then succeeds if the store hides the fault.
func (x *fault) attempts() int {
	if x.answers == byRedis && !measure.Exact() {
		return 10
	}
	return 1
}

func (x *fault) checkAnswers(t *testing.T, fallbacks float64, answers int64) {
	t.Helper()
	require.Positive(t, answers, "no request was answered")
	switch x.answers {
	case byRedis:
		assert.Less(t, fallbacks, maxHiddenFallbacks, "the store hides the fault")
	case byPolicy:
		assert.Greater(t, fallbacks, 0.9, "the failure policy answers")
	case byEither:
	}
}

// check checks all decisions against the invariants.
func (x *fault) check(t *testing.T, f *fleet, o *outcome) {
	t.Helper()
	if x.dataLoss != nil {
		o.Loss = x.dataLoss(t, f)
	}
	require.Eventually(t, func() bool { return f.redis.peek(t.Context(), anyShard) == nil }, waitTimeout, 10*time.Millisecond)
	found := f.redis.check(noneInFlight, func(int) loss { return o.Loss })
	o.Extra, o.ShareOfBound, o.DoubleDebited, o.FalseDenials = found.extra(), found.ShareOfBound, found.DoubleDebited, found.FalseDenials
	if o.Loss == (loss{}) {
		assert.Zero(t, o.Extra, "tokens beyond the invariant: %+v", found.First)
	}
	assert.LessOrEqual(t, o.ShareOfBound, 1.0, "beyond the bound of lost data: %+v", found.First)
	if o.Loss.Split == 0 {
		assert.Zero(t, found.DoubleDebited, "debited twice: %+v", found.First)
	} // two primaries at once each count by themselves
	assert.Zero(t, found.FalseDenials, "false denials: %+v", found.First)
	assert.Zero(t, found.Permits.BeyondBound+found.Permits.Breaches, "permits: %+v", found.Permits.First)
	if o.Loss == (loss{}) && !x.clockJumps {
		assert.Zero(t, found.StaleDenials, "false denials by the denial cache: %+v", found.First)
	}
	local := f.local.check(noneInFlight, func(int) loss { return loss{} })
	assert.Empty(t, local.First, "the local store keeps the invariants, too")
	assert.Empty(t, local.Permits.First, "the local store keeps the invariants, too")
}

// noneInFlight reports for every shard that no lost operation can still run.
func noneInFlight(int) bool { return true }

// nothing is the end of a fault that ends by itself.
func nothing(*testing.T, *fleet) {}

// once is the loss of a fault in which the servers lose their data once.
func once(*testing.T, *fleet) loss { return loss{Times: 1} }

// split is the loss of a failover after which the old primary accepts writes for a while.
func split(_ *testing.T, f *fleet) loss { return loss{Times: 1, Split: f.split} }

// slug returns the kind as a file name.
func slug(kind string) string {
	return strings.ReplaceAll(strings.ReplaceAll(kind, " ", "-"), "/", "-")
}
