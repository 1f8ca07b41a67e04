package simulate_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/simulate"
)

func TestRun_decidesInTheLogsOwnTime(t *testing.T) {
	t.Parallel()
	log := slices.Concat(
		times(3, logLine{0, "alice", "/a", 200}),                           // 2 pass
		times(1, logLine{999 * time.Millisecond, "alice", "/a", 200}),      // too early
		times(2, logLine{time.Second, "alice", "/a", 200}),                 // 1 passes
		times(2, logLine{time.Second, "bob", "/a", 200}),                   // a bucket of his own
		times(1, logLine{2 * time.Hour, "alice", "/a", 200}),               // full again
		times(5, logLine{2*time.Hour + time.Second, "bob", "/other", 200}), // no policy
	)
	r := replay(t, log, set{newPolicy(t, "a", 2), newPolicy(t, "unused", 1)}).Reports[0]

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
	log := times(2, logLine{0, "alice", "/a", 200})
	for i := range 6 {
		log = append(log, logLine{time.Minute + time.Duration(i)*time.Second, "alice", "/a", 200})
	}
	for i := range 5 {
		log = append(log, logLine{2*time.Minute + time.Duration(i)*time.Second, "alice", "/a", 200})
	}
	log = append(log, logLine{2*time.Minute + 4*time.Second, "alice", "/a", 200}) // as many requests and denials as before
	r := replay(t, log, set{newPolicy(t, "a", 1)}).Reports[0]
	assert.Equal(t, simulate.Minute{Start: noon.Add(time.Minute), Requests: 6}, r.Policies[0].BusiestMinute)
	assert.Equal(t, simulate.Minute{Start: noon, Requests: 2, Denied: 1}, r.Policies[0].WorstMinute)
}

// A log does not say what answers reported: a request costs its estimate or, if it failed, what the policy says of that.
func TestRun_costsAreEstimatesUnlessRequestsFailed(t *testing.T) {
	t.Parallel()
	estimated := func(p *policy.Policy) {
		p.Cost = policy.Cost{Estimate: []policy.CostSource{{Header: "x-est"}, {Number: 5}}, Actual: policy.Actual{Usage: true}, Failed: 1}
	}
	parallel := func(p *policy.Policy) {
		l, err := domain.NewConcurrency("parallel", 1, time.Minute)
		require.NoError(t, err)
		p.Limits = append(p.Limits, l)
	}
	log := slices.Concat(
		times(3, logLine{0, "alice", "/a", 200}), // 2 pass
		times(6, logLine{0, "bob", "/a", 500}),   // 1 token each
		times(3, logLine{0, "carol", "/a", 0}),   // 2 pass
	)
	for _, adjust := range [][]func(*policy.Policy){{estimated}, {estimated, parallel}} {
		p := replay(t, log, set{newPolicy(t, "a", 10, adjust...)}).Reports[0].Policies[0]
		assert.Equal(t, simulate.Counts{Requests: 12, Allowed: 10, Denied: 2}, p.Counts)
	}
}

func TestRun_blockedExemptAndShadow(t *testing.T) {
	t.Parallel()
	rules := func(p *policy.Policy) {
		p.Block, p.Exempt, p.Mode = []string{"bad-*"}, []string{"health"}, policy.ModeShadow
	}
	log := slices.Concat(
		times(3, logLine{0, "health", "/a", 200}), times(2, logLine{0, "bad-1", "/a", 200}), times(4, logLine{0, "alice", "/a", 200}),
		times(1, logLine{0, "", "/a", 200}), // no header: the address stands in
	)
	r := replay(t, log, set{newPolicy(t, "a", 1, rules)}).Reports[0]
	p := r.Policies[0]
	assert.Equal(t, simulate.Counts{Requests: 10, Allowed: 2, Denied: 3, Blocked: 2, Exempt: 3}, p.Counts)
	assert.Equal(t, "shadow", p.Mode)
	assert.Equal(t, 1, p.KeyMissing)
	assert.Equal(t, 2, p.ClientsDenied)
	assert.Equal(t, []simulate.LimitReport{{Name: "burst", Denied: 3}}, p.Limits)
	assert.Equal(t, []string{"alice", "bad-1"}, []string{p.Worst[0].Client, p.Worst[1].Client})
}

func TestRun_refundsOnAStatus(t *testing.T) {
	t.Parallel()
	statuses, err := policy.ParseRefundOn("2xx")
	require.NoError(t, err)
	refunding := func(p *policy.Policy) { p.RefundOn = statuses }
	log := slices.Concat(
		times(5, logLine{0, "alice", "/a", 200}), // each comes back
		times(3, logLine{0, "alice", "/a", 401}), // one passes
		times(1, logLine{0, "alice", "/a", 200}), // denied, so that nothing comes back
		times(1, logLine{0, "alice", "/a", 0}),
	)
	p := replay(t, log, set{newPolicy(t, "a", 1, refunding)}).Reports[0].Policies[0]
	assert.Equal(t, simulate.Counts{Requests: 10, Allowed: 6, Denied: 4}, p.Counts)
	assert.Equal(t, 5, p.Refunded)
}

func TestRun_reportsRefusedRequests(t *testing.T) {
	t.Parallel()
	r := replay(t, slices.Concat(times(1, logLine{0, "alice", "/a", 200}), times(9, logLine{0, "twice", "/a", 200})), set{newPolicy(t, "a", 1)}).Reports[0]
	assert.Equal(t, 1, r.Requests)
	assert.Equal(t, 9, r.Refused)
	require.Len(t, r.Refusals, 5)
	assert.Equal(t, "log", r.Refusals[0].Log)
	assert.Equal(t, 2, r.Refusals[0].Line)
	assert.Contains(t, r.Refusals[0].Reason, "invalid request")
}

func TestRun_comparesTwoSides(t *testing.T) {
	t.Parallel()
	log := slices.Concat(
		times(4, logLine{0, "alice", "/a", 200}), times(1, logLine{0, "bob", "/a", 200}),
		times(3, logLine{0, "carol", "/b", 200}), times(2, logLine{0, "dave", "/c", 200}),
	)
	before := set{newPolicy(t, "a", 1), newPolicy(t, "b", 9), newPolicy(t, "c", 9)}
	after := set{newPolicy(t, "a", 3), newPolicy(t, "b", 1), newPolicy(t, "d", 9)}
	c := replay(t, log, before, after).Changes
	require.NotNil(t, c)
	assert.Equal(t, 2, c.NewlyDenied)
	assert.Equal(t, 2, c.NewlyAllowed)
	assert.Equal(t, 1, c.ClientsNewlyDenied)
	assert.Equal(t, 1, c.ClientsNewlyAllowed)
	assert.Equal(t, []simulate.ClientChange{
		{Policy: "a", Client: "alice", Change: simulate.Change{NewlyAllowed: 2}}, {Policy: "b", Client: "carol", Change: simulate.Change{NewlyDenied: 2}},
	}, c.Clients)
	require.Len(t, c.Policies, 4)
	assert.Equal(t, simulate.PolicyChange{
		Name: "a", Before: &simulate.Counts{Requests: 5, Allowed: 2, Denied: 3}, After: &simulate.Counts{Requests: 5, Allowed: 4, Denied: 1},
		Change: simulate.Change{NewlyAllowed: 2},
	}, c.Policies[0])
	assert.Nil(t, c.Policies[2].After, "c is gone")
	assert.Nil(t, c.Policies[3].Before, "d is new")
	assert.Nil(t, replay(t, log, before).Changes)
}

func TestRun_theSeriesKeepsItsSumsWhenBinsAreMerged(t *testing.T) {
	t.Parallel()
	var log []logLine
	for i := range 2000 {
		log = append(log, times(2, logLine{time.Duration(i) * time.Duration(i) * time.Second, "alice", "/a", 200})...) // over 46 days
	}
	for n, width := range map[int]int64{40: 1, 100: 5, 4000: 6 * 3600} {
		s := replay(t, log[:n], set{newPolicy(t, "a", 1)}).Reports[0].Series
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
	log := []logLine{{-500_000 * time.Hour, "alice", "/a", 200}, {0, "alice", "/a", 200}, {2_000_000 * time.Hour, "alice", "/a", 200}}
	r := replay(t, log, set{newPolicy(t, "a", 1)}).Reports[0]
	assert.Equal(t, 3, r.Allowed)
	assert.LessOrEqual(t, len(r.Series.Bins), 600)
}

func TestRun_anEmptyLog(t *testing.T) {
	t.Parallel()
	r := replay(t, nil, set{newPolicy(t, "a", 1)}).Reports[0]
	assert.True(t, r.From.IsZero())
	assert.Empty(t, r.Series.Bins)
	assert.Len(t, r.Policies, 1)
}

func TestRun_endsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := simulate.Replay{Log: &memoryLog{list: times(1, logLine{})}, Clock: new(simulate.Clock)}
	_, err := r.Run(ctx)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestRun_callsDecidedForEachDecision(t *testing.T) {
	t.Parallel()
	var called []string
	r := simulate.Replay{
		Log: &memoryLog{list: times(2, logLine{0, "alice", "/none", 200})}, Clock: new(simulate.Clock),
		Sides: []simulate.Side{{Limiter: passing{}}, {Limiter: passing{}}},
		Decided: func(side int, r *ports.LoggedRequest, a *ports.Answer) {
			called = append(called, string(rune('0'+side))+r.Request.Path+a.Decision.Outcome.String())
		},
	}
	_, err := r.Run(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"0/noneallowed", "1/noneallowed", "0/noneallowed", "1/noneallowed"}, called)
}

// passing is a limiter that allows every request.
type passing struct{ ports.Limiter }

func (passing) DecideMany(_ context.Context, _ []policy.Request, answers []ports.Answer) {
	answers[0] = ports.Answer{Decision: decision.Decision{Outcome: decision.OutcomeAllowed}}
}

// A quota's day ends by the log's clock, in the quota's zone: in Berlin eleven hours after noon in UTC.
func TestRun_quotasFollowTheLogsCalendar(t *testing.T) {
	t.Parallel()
	perDay := func(zone string) *policy.Policy {
		return newPolicy(t, "a", 1, func(p *policy.Policy) {
			schedule, err := calendar.Parse("day", zone, "")
			require.NoError(t, err)
			daily, err := domain.NewQuota("daily", 2, schedule)
			require.NoError(t, err)
			p.Limits = []domain.Limit{daily}
			p.RefundOn, err = policy.ParseRefundOn("503")
			require.NoError(t, err)
		})
	}
	const end, nextEnd = 11 * time.Hour, 35 * time.Hour
	log := slices.Concat(
		times(3, logLine{0, "alice", "/a", 200}),                      // 2 pass
		times(1, logLine{end - time.Microsecond, "alice", "/a", 200}), // the day has not ended
		times(1, logLine{end, "alice", "/a", 503}),                    // passes, and is given back to its own day
		times(3, logLine{end, "alice", "/a", 200}),                    // 2 pass
		times(1, logLine{nextEnd - time.Second, "alice", "/a", 200}),
		times(1, logLine{nextEnd, "alice", "/a", 200}), // passes
		times(3, logLine{100 * 24 * time.Hour, "bob", "/a", 200}),
	)
	result := replay(t, log, set{perDay("Europe/Berlin")}, set{perDay("")})
	berlin, utc := result.Reports[0], result.Reports[1]
	assert.Equal(t, simulate.Counts{Requests: 13, Allowed: 8, Denied: 5}, berlin.Counts)
	assert.Equal(t, []simulate.LimitReport{{Name: "daily", Denied: 5}}, berlin.Policies[0].Limits)
	assert.Equal(t, 1, berlin.Policies[0].Refunded)
	assert.Equal(t, noon.Add(100*24*time.Hour), berlin.Policies[0].LastDenied)
	assert.Equal(t, simulate.Counts{Requests: 13, Allowed: 6, Denied: 7}, utc.Counts, "there the day ends an hour later")
	assert.Equal(t, 3, result.Changes.NewlyDenied)
	assert.Equal(t, 1, result.Changes.NewlyAllowed)
}

// Each request ends before the next begins, so that no concurrency limit denies; its permit is released, refunded or not.
func TestRun_checksNoConcurrencyLimit(t *testing.T) {
	t.Parallel()
	parallel, err := domain.NewConcurrency("parallel", 1, time.Hour)
	require.NoError(t, err)
	p := newPolicy(t, "a", 3, func(p *policy.Policy) {
		p.Limits = append(p.Limits, parallel)
		p.RefundOn, err = policy.ParseRefundOn("500")
		require.NoError(t, err)
	})
	log := append(times(2, logLine{0, "x", "/a", 500}), times(4, logLine{0, "x", "/a", 200})...)
	report := replay(t, log, set{p}).Reports[0].Policies[0]
	assert.Equal(t, 5, report.Allowed)
	assert.Equal(t, 2, report.Refunded)
	assert.Equal(t, []simulate.LimitReport{{Name: "burst", Denied: 1}, {Name: "parallel", NotChecked: true}}, report.Limits)
}

func TestRun_requestsWaitAsThePolicyLetsThem(t *testing.T) {
	t.Parallel()
	p := newPolicy(t, "a", 2, func(p *policy.Policy) { p.MaxWait = 1500 * time.Millisecond })
	log := append(times(4, logLine{0, "x", "/a", 200}), times(2, logLine{999_500 * time.Microsecond, "x", "/a", 200})...)
	report := replay(t, log, set{p}).Reports[0].Policies[0]
	assert.Equal(t, 4, report.Allowed, "two that are there, one that waits for 1 s, and one more that waits for 1.0005 s")
	assert.Equal(t, 2, report.Denied)
	assert.Equal(t, 2, report.Waited)
	assert.EqualValues(t, 1001, report.LongestWaitMS)
}
