package simulate_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/simulate"
)

func TestRun_decidesInTheLogsOwnTime(t *testing.T) {
	t.Parallel()
	log := slices.Concat(
		times(3, visit{0, "alice", "/a", 200}),                           // 2 pass
		times(1, visit{999 * time.Millisecond, "alice", "/a", 200}),      // too early
		times(2, visit{time.Second, "alice", "/a", 200}),                 // 1 passes
		times(2, visit{time.Second, "bob", "/a", 200}),                   // a bucket of his own
		times(1, visit{2 * time.Hour, "alice", "/a", 200}),               // full again
		times(5, visit{2*time.Hour + time.Second, "bob", "/other", 200}), // no policy
	)
	r := replay(t, log, set{policy(t, "a", 2), policy(t, "unused", 1)}).Reports[0]

	assert.Equal(t, simulate.Counts{Requests: 14, Allowed: 11, Denied: 3}, r.Counts)
	assert.Equal(t, 5, r.Unlimited)
	assert.Equal(t, noon, r.From)
	assert.Equal(t, noon.Add(2*time.Hour+time.Second), r.To)
	require.Len(t, r.Policies, 2)
	p := r.Policies[0]
	assert.Equal(t, simulate.Counts{Requests: 9, Allowed: 6, Denied: 3}, p.Counts)
	assert.InDelta(t, 3.0/9, p.Share, 1e-9)
	assert.Equal(t, 2, p.Clients)
	assert.Equal(t, 1, p.ClientsDenied)
	assert.Equal(t, noon, p.FirstDenied)
	assert.Equal(t, noon.Add(time.Second), p.LastDenied)
	assert.Equal(t, []simulate.LimitReport{{Name: "burst", Denied: 3}}, p.Limits)
	assert.Equal(t, []simulate.ClientReport{{Client: "alice", Requests: 7, Denied: 3, First: noon, Last: noon.Add(time.Second)}}, p.Worst)
	assert.Equal(t, simulate.Minute{Start: noon, Requests: 8, Denied: 3}, p.WorstMinute)
	assert.Equal(t, p.WorstMinute, p.BusiestMinute)
	assert.Equal(t, "unused", r.Policies[1].Name)
	assert.Equal(t, 0, r.Policies[1].Requests, "a policy that matches nothing is shown")
	assert.Equal(t, []simulate.LimitReport{{Name: "burst"}}, r.Policies[1].Limits)
}

func TestRun_busiestAndWorstMinutesDiffer(t *testing.T) {
	t.Parallel()
	log := times(2, visit{0, "alice", "/a", 200})
	for i := range 6 {
		log = append(log, visit{time.Minute + time.Duration(i)*time.Second, "alice", "/a", 200})
	}
	for i := range 5 {
		log = append(log, visit{2*time.Minute + time.Duration(i)*time.Second, "alice", "/a", 200})
	}
	log = append(log, visit{2*time.Minute + 4*time.Second, "alice", "/a", 200}) // as many requests and denials as before
	r := replay(t, log, set{policy(t, "a", 1)}).Reports[0]
	assert.Equal(t, simulate.Minute{Start: noon.Add(time.Minute), Requests: 6}, r.Policies[0].BusiestMinute)
	assert.Equal(t, simulate.Minute{Start: noon, Requests: 2, Denied: 1}, r.Policies[0].WorstMinute)
}

func TestRun_blockedExemptAndShadow(t *testing.T) {
	t.Parallel()
	rules := func(p *domain.Policy) {
		p.Block, p.Exempt, p.Mode = []string{"bad-*"}, []string{"health"}, domain.ModeShadow
	}
	log := slices.Concat(
		times(3, visit{0, "health", "/a", 200}), times(2, visit{0, "bad-1", "/a", 200}), times(4, visit{0, "alice", "/a", 200}),
		times(1, visit{0, "", "/a", 200}), // no header: the address stands in
	)
	r := replay(t, log, set{policy(t, "a", 1, rules)}).Reports[0]
	p := r.Policies[0]
	assert.Equal(t, simulate.Counts{Requests: 10, Allowed: 2, Denied: 3, Blocked: 2, Exempt: 3}, p.Counts)
	assert.Equal(t, "shadow", p.Mode)
	assert.Equal(t, 1, p.KeyMissing)
	assert.Equal(t, 2, p.ClientsDenied)
	assert.Equal(t, []simulate.LimitReport{{Name: "burst", Denied: 3}}, p.Limits)
	assert.Equal(t, []string{"alice", "bad-1"}, []string{p.Worst[0].Client, p.Worst[1].Client})
}

func TestRun_tokensComeBackForAStatus(t *testing.T) {
	t.Parallel()
	statuses, err := domain.ParseRefundOn("2xx")
	require.NoError(t, err)
	refunding := func(p *domain.Policy) { p.RefundOn = statuses }
	log := slices.Concat(
		times(5, visit{0, "alice", "/a", 200}), // each comes back
		times(3, visit{0, "alice", "/a", 401}), // one passes
		times(1, visit{0, "alice", "/a", 200}), // denied, so that nothing comes back
		times(1, visit{0, "alice", "/a", 0}),
	)
	p := replay(t, log, set{policy(t, "a", 1, refunding)}).Reports[0].Policies[0]
	assert.Equal(t, simulate.Counts{Requests: 10, Allowed: 6, Denied: 4}, p.Counts)
	assert.Equal(t, 5, p.Refunded)
}

func TestRun_whatADoorRefusesIsTold(t *testing.T) {
	t.Parallel()
	r := replay(t, slices.Concat(times(1, visit{0, "alice", "/a", 200}), times(9, visit{0, "twice", "/a", 200})), set{policy(t, "a", 1)}).Reports[0]
	assert.Equal(t, 1, r.Requests)
	assert.Equal(t, 9, r.Refused)
	require.Len(t, r.Refusals, 5)
	assert.Equal(t, "log", r.Refusals[0].Log)
	assert.Equal(t, 2, r.Refusals[0].Line)
	assert.Contains(t, r.Refusals[0].Reason, "invalid request")
}

func TestRun_compareTellsWhoWouldGainAndWhoWouldLose(t *testing.T) {
	t.Parallel()
	log := slices.Concat(
		times(4, visit{0, "alice", "/a", 200}), times(1, visit{0, "bob", "/a", 200}),
		times(3, visit{0, "carol", "/b", 200}), times(2, visit{0, "dave", "/c", 200}),
	)
	before := set{policy(t, "a", 1), policy(t, "b", 9), policy(t, "c", 9)}
	after := set{policy(t, "a", 3), policy(t, "b", 1), policy(t, "d", 9)}
	c := replay(t, log, before, after).Changes
	require.NotNil(t, c)
	assert.Equal(t, 2, c.NewlyDenied)
	assert.Equal(t, 2, c.NewlyAllowed)
	assert.Equal(t, 1, c.ClientsNewlyDenied)
	assert.Equal(t, 1, c.ClientsNewlyAllowed)
	assert.Equal(t, []simulate.ClientChange{
		{Policy: "a", Client: "alice", NewlyAllowed: 2}, {Policy: "b", Client: "carol", NewlyDenied: 2},
	}, c.Clients)
	require.Len(t, c.Policies, 4)
	assert.Equal(t, simulate.PolicyChange{
		Name: "a", Before: &simulate.Counts{Requests: 5, Allowed: 2, Denied: 3}, After: &simulate.Counts{Requests: 5, Allowed: 4, Denied: 1},
		NewlyAllowed: 2,
	}, c.Policies[0])
	assert.Nil(t, c.Policies[2].After, "c is gone")
	assert.Nil(t, c.Policies[3].Before, "d is new")
	assert.Nil(t, replay(t, log, before).Changes)
}

func TestRun_theSeriesLosesNothingAsItGrowsCoarser(t *testing.T) {
	t.Parallel()
	var log []visit
	for i := range 2000 {
		log = append(log, times(2, visit{time.Duration(i) * time.Duration(i) * time.Second, "alice", "/a", 200})...) // over 46 days
	}
	for n, width := range map[int]int64{40: 1, 100: 5, 4000: 6 * 3600} {
		s := replay(t, log[:n], set{policy(t, "a", 1)}).Reports[0].Series
		assert.Equal(t, width, s.WidthSeconds, n)
		assert.LessOrEqual(t, len(s.Bins), 600)
		assert.Zero(t, s.Start.Unix()%width)
		assert.False(t, s.Start.After(noon))
		var total simulate.Bin
		for _, bin := range s.Bins {
			total.Allowed += bin.Allowed
			total.Denied += bin.Denied
		}
		assert.Equal(t, simulate.Bin{Allowed: n / 2, Denied: n / 2}, total)
		last := s.Start.Add(time.Duration(int64(len(s.Bins))*width) * time.Second)
		assert.True(t, last.After(noon.Add(log[n-1].at)))
	}
}

func TestRun_timesFarApartAndBeforeTheEpoch(t *testing.T) {
	t.Parallel()
	log := []visit{{-500_000 * time.Hour, "alice", "/a", 200}, {0, "alice", "/a", 200}, {2_000_000 * time.Hour, "alice", "/a", 200}}
	r := replay(t, log, set{policy(t, "a", 1)}).Reports[0]
	assert.Equal(t, 3, r.Allowed)
	assert.LessOrEqual(t, len(r.Series.Bins), 600)
}

func TestRun_anEmptyLog(t *testing.T) {
	t.Parallel()
	r := replay(t, nil, set{policy(t, "a", 1)}).Reports[0]
	assert.True(t, r.From.IsZero())
	assert.Empty(t, r.Series.Bins)
	assert.Len(t, r.Policies, 1)
}

func TestRun_endsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := simulate.Replay{Log: &visits{list: times(1, visit{})}, Clock: new(simulate.Clock)}
	_, err := r.Run(ctx)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestRun_tellsEachDecision(t *testing.T) {
	t.Parallel()
	var told []string
	r := simulate.Replay{
		Log: &visits{list: times(2, visit{0, "alice", "/none", 200})}, Clock: new(simulate.Clock),
		Sides: []simulate.Side{{Limiter: passing{}}, {Limiter: passing{}}},
		Decided: func(side int, r *ports.LoggedRequest, a *ports.Answer) {
			told = append(told, string(rune('0'+side))+r.Request.Path+a.Decision.Outcome.String())
		},
	}
	_, err := r.Run(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"0/noneallowed", "1/noneallowed", "0/noneallowed", "1/noneallowed"}, told)
}

// passing is a limiter that lets everything pass.
type passing struct{ ports.Limiter }

func (passing) DecideMany(_ context.Context, _ []domain.Request, answers []ports.Answer) {
	answers[0] = ports.Answer{Decision: domain.Decision{Outcome: domain.OutcomeAllowed}}
}
