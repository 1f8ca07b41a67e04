package domain_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestValidPermitID(t *testing.T) {
	for _, good := range []string{"a", "Z9._-", strings.Repeat("x", 64), domain.NewPermitID("-_aZ", domain.MaxCost, 1<<53)} {
		assert.True(t, domain.ValidPermitID(good), good)
	}
	for _, bad := range []string{"", "a b", "a:b", "a\n", "ä", "a/b", "{a}", "\x00", strings.Repeat("x", 65)} {
		assert.False(t, domain.ValidPermitID(bad), bad)
	}
}

func TestParsePermitID_readsWhatNewPermitIDWrote(t *testing.T) {
	id := domain.NewPermitID("q-_7", 812, t0)
	assert.Equal(t, "q-_7.812.1700000000000000", id)
	cost, asked, ok := domain.ParsePermitID(id)
	assert.True(t, ok)
	assert.Equal(t, domain.Tokens(812), cost)
	assert.Equal(t, t0, asked)
	for _, other := range []string{"", "a", "a.1", "a.1.2.3", "a.x.2", "a.1.y", "a.1.", "a.99999999999999999999.1"} {
		_, _, ok := domain.ParsePermitID(other)
		assert.False(t, ok, other)
	}
}

// permitStep is one operation with a permit, on a limit of two permits whose lease is a minute.
type permitStep struct {
	at     time.Duration // since t0
	op     domain.Op
	permit string
	want   domain.Verdict
	held   domain.Credits
	until  time.Duration // when the first permit expires, since t0; 0 if none is held
}

func playPermits(t *testing.T, story []permitStep) {
	t.Helper()
	g := newGroup(mustConcurrency(t, 2))
	for i, s := range story {
		now := t0.Add(s.at)
		cost := domain.Tokens(1)
		if s.op == domain.OpRelease {
			cost = 0
		}
		verdict, states, write := g.do(domain.Operation{Op: s.op, Cost: cost, Permit: s.permit}, now)
		want := domain.State{Amount: s.held, At: t0.Add(s.until), TokenCredits: 1}
		if s.until == 0 {
			want.At = now
		}
		require.Equal(t, s.want, verdict, "step %d: %s %s", i, s.op, s.permit)
		require.Equal(t, want, states[0], "step %d: %s %s", i, s.op, s.permit)
		require.Equal(t, write, s.op == domain.OpTake && verdict == domain.Allowed || s.op == domain.OpReset, "step %d", i)
	}
}

func TestPermits_takeReleaseAndExpiry(t *testing.T) {
	const s, yes, no = time.Second, domain.Allowed, domain.Denied
	playPermits(t, []permitStep{
		{0, domain.OpTake, "a", yes, 1, 60 * s},
		{10 * s, domain.OpTake, "b", yes, 2, 60 * s},
		{20 * s, domain.OpTake, "c", no, 2, 60 * s},
		{20 * s, domain.OpRelease, "c", no, 2, 60 * s}, // it is not held
		{30 * s, domain.OpRelease, "a", yes, 1, 70 * s},
		{30 * s, domain.OpRelease, "a", no, 1, 70 * s},
		{30 * s, domain.OpTake, "c", yes, 2, 70 * s},
		{70*s - us, domain.OpTake, "d", no, 2, 70 * s},
		{70 * s, domain.OpTake, "d", yes, 2, 90 * s},   // b has expired
		{70 * s, domain.OpRelease, "b", no, 2, 90 * s}, // and its release does nothing
		{80 * s, domain.OpUndo, "d", yes, 1, 90 * s},
		{80 * s, domain.OpUndo, "d", yes, 1, 90 * s}, // an undo of nothing
		{85 * s, domain.OpCharge, "", yes, 1, 90 * s},
		{85 * s, domain.OpRefund, "c", yes, 1, 90 * s},
		{85 * s, domain.OpReset, "c", yes, 1, 90 * s}, // neither of them is about permits
		{90*s - us, domain.OpPeek, "", yes, 1, 90 * s},
		{90 * s, domain.OpList, "", yes, 0, 0},
	})
}

func TestPermits_renewal(t *testing.T) {
	const s, yes, no = time.Second, domain.Allowed, domain.Denied
	playPermits(t, []permitStep{
		{0, domain.OpRenew, "a", no, 0, 0},
		{0, domain.OpTake, "a", yes, 1, 60 * s},
		{1 * s, domain.OpTake, "b", yes, 2, 60 * s},
		{60*s - us, domain.OpRenew, "a", yes, 2, 61 * s}, // b is the first now
		{61 * s, domain.OpRenew, "b", no, 1, 120*s - us}, // it has just expired
		{61 * s, domain.OpTake, "c", yes, 2, 120*s - us},
		{62 * s, domain.OpRelease, "a", yes, 1, 121 * s},
		{62 * s, domain.OpRenew, "a", no, 1, 121 * s},
		{120 * s, domain.OpRenew, "c", yes, 1, 180 * s},
		{180 * s, domain.OpRenew, "c", no, 0, 0},
	})
}

func TestPermits_clockThatGoesBack(t *testing.T) {
	const s, yes, no = time.Second, domain.Allowed, domain.Denied
	playPermits(t, []permitStep{
		{100 * s, domain.OpTake, "a", yes, 1, 160 * s},
		{100 * s, domain.OpTake, "b", yes, 2, 160 * s},
		{10 * s, domain.OpTake, "c", no, 2, 160 * s}, // both are still held, until their own time
		{10 * s, domain.OpRenew, "a", yes, 2, 70 * s},
		{70 * s, domain.OpTake, "c", yes, 2, 130 * s},
		{160 * s, domain.OpTake, "d", yes, 1, 220 * s},
		{150 * s, domain.OpRenew, "b", no, 1, 220 * s}, // what has expired stays so
		{150 * s, domain.OpRelease, "c", no, 1, 220 * s},
	})
}

func TestPermits_listThoseThatExpireFirst(t *testing.T) {
	g := newGroup(mustConcurrency(t, domain.MaxConcurrent))
	var want []domain.Permit
	for i := range 4000 { // at most a hundred expire at one instant, in another order than they were taken
		now := t0.Add(time.Duration(i*7919%4000/100) * time.Second)
		id := fmt.Sprintf("%04d", i*61%4000)
		verdict, _, _ := g.do(domain.Operation{Op: domain.OpTake, Cost: 1, Permit: id}, now)
		require.Equal(t, domain.Allowed, verdict)
		want = append(want, domain.Permit{ID: id, Expires: now.Add(time.Minute)})
		if i%3 == 0 {
			end := want[len(want)/2]
			g.do(domain.Operation{Op: domain.OpRelease, Permit: end.ID}, t0)
			want = slices.Delete(want, len(want)/2, len(want)/2+1)
		}
	}
	slices.SortFunc(want, func(a, b domain.Permit) int {
		if a.Expires != b.Expires {
			return int(a.Expires - b.Expires)
		}
		return strings.Compare(a.ID, b.ID)
	})
	kept := domain.Permit{ID: "kept"}
	require.Len(t, want, g.permits[0].Len())
	assert.Equal(t, append([]domain.Permit{kept}, want[:domain.MaxListed]...), g.permits[0].List([]domain.Permit{kept}))
	for len(want) > 3 {
		g.do(domain.Operation{Op: domain.OpRelease, Permit: want[0].ID}, t0)
		want = want[1:]
	}
	assert.Equal(t, want, g.permits[0].List(nil))
	g.permits[0].Expire(t0.Add(time.Hour))
	assert.Zero(t, g.permits[0].Len())
	assert.Empty(t, g.permits[0].List(nil))
	assert.Empty(t, new(domain.Permits).List(nil), "the zero value holds none")
}

// Two limits of one key, whose leases differ.
func TestPermits_ofTwoLimits(t *testing.T) {
	short, err := domain.NewConcurrency("short", 5, time.Second)
	require.NoError(t, err)
	g := newGroup(short, mustLimit(t, "1/h", 10), mustConcurrency(t, 1))
	do := func(op domain.Op, permit string, cost domain.Tokens, at time.Duration) (domain.Verdict, [3]domain.Tokens) {
		verdict, states, _ := g.do(domain.Operation{Op: op, Permit: permit, Cost: cost}, t0.Add(at))
		var left [3]domain.Tokens
		for i := range states {
			left[i] = g.limits[i].Remaining(states[i])
		}
		return verdict, left
	}
	for _, s := range []struct {
		op     domain.Op
		permit string
		cost   domain.Tokens
		at     time.Duration
		want   domain.Verdict
		left   [3]domain.Tokens
	}{
		{domain.OpTake, "a", 2, 0, domain.Allowed, [3]domain.Tokens{4, 8, 0}},
		{domain.OpTake, "b", 2, 0, domain.Denied, [3]domain.Tokens{4, 8, 0}},
		{domain.OpRenew, "a", 0, time.Second, domain.Denied, [3]domain.Tokens{5, 8, 0}}, // short has expired
		{domain.OpTake, "b", 2, time.Second, domain.Denied, [3]domain.Tokens{5, 8, 0}},
		{domain.OpRelease, "a", -1, 60*time.Second - us, domain.Allowed, [3]domain.Tokens{5, 9, 1}}, // one is enough to settle
		{domain.OpTake, "b", 2, 60 * time.Second, domain.Allowed, [3]domain.Tokens{4, 7, 0}},
		{domain.OpRenew, "b", 0, 60 * time.Second, domain.Allowed, [3]domain.Tokens{4, 7, 0}},
		{domain.OpUndo, "b", 2, 60 * time.Second, domain.Allowed, [3]domain.Tokens{5, 9, 1}},
	} {
		verdict, left := do(s.op, s.permit, s.cost, s.at)
		assert.Equal(t, s.want, verdict, "%s %s at %s", s.op, s.permit, s.at)
		assert.Equal(t, s.left, left, "%s %s at %s", s.op, s.permit, s.at)
	}
	assert.Zero(t, g.permits[2].Len())
}
