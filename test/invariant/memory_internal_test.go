package invariant

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A soak test replays for hours.
func TestPermitChecker_forgetsPermitsThatHaveEnded(t *testing.T) {
	c, err := NewPermitChecker(Concurrency{Size: 100, Lease: 10 * time.Microsecond})
	require.NoError(t, err)
	for i := range int64(1000) { // none of them is released
		verdict := Allowed
		if i%3 == 0 {
			verdict = Lost
		}
		c.Replay([]PermitRecord{{NowUS: i, ID: strconv.FormatInt(i, 10), Verdict: verdict, Held: NoCount}})
		c.NoneInFlight(i)
	}
	kept := len(c.permits)
	assert.LessOrEqual(t, kept, 11, "those that are held, and the last lost one")
	c.Replay([]PermitRecord{{NowUS: 2000, Op: Count, Verdict: Allowed, Held: 0}})
	kept = len(c.permits)
	assert.Zero(t, kept)
	assert.Empty(t, c.Report().First)
}

func TestQuotaChecker_forgetsPeriodsThatHaveEnded(t *testing.T) {
	for ordered, want := range map[bool]int{false: 1, true: 1000} {
		c, err := NewQuotaChecker(Quota{Size: 10, Start: func(us int64) int64 { return us - us%10 }})
		require.NoError(t, err)
		c.Ordered = ordered
		for i := range int64(1000) {
			c.Replay([]Record{{NowUS: 10 * i, Cost: 1, Verdict: Allowed, Level: 9}})
		}
		kept := len(c.rule.(*quotaRule).granting)
		assert.Equal(t, want, kept, "a clock that may be set back comes back to a period: %v", ordered)
		assert.EqualValues(t, 1000, c.Report().Periods)
		assert.Empty(t, c.Report().First)
	}
}
