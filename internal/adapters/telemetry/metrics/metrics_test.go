package metrics_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/metrics"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// named returns metrics for policies of these names.
func named(policies ...string) *metrics.Metrics {
	return metrics.New(metrics.Build{Version: "v1.2.3", Revision: "abc", GoVersion: "go1"}, func(policy string) bool {
		for _, p := range policies {
			if p == policy {
				return true
			}
		}
		return false
	})
}

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	return w.Body.String()
}

// samples returns the lines of one metric, without comments.
func samples(exposition, name string) []string {
	var found []string
	for lines := bufio.NewScanner(strings.NewReader(exposition)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok && (rest[0] == '{' || rest[0] == ' ') {
			found = append(found, rest)
		}
	}
	return found
}

func decided(policy string, outcome decision.Outcome, store decision.StoreName) *decision.Decision {
	return &decision.Decision{Policy: policy, Outcome: outcome, Store: store}
}

func TestDecided_countsByPolicyOutcomeAndStore(t *testing.T) {
	m := named("search", "default")
	var req policy.Request
	for range 3 {
		m.Decided(&req, decided("search", decision.OutcomeAllowed, decision.StoreRedis))
	}
	m.Decided(&req, decided("search", decision.OutcomeDenied, decision.StoreShortcut))
	m.Decided(&req, decided("default", decision.OutcomeUnavailable, decision.StoreFallback))
	m.Decided(&req, decided("default", decision.OutcomeDenied, decision.StoreMemory))

	assert.Equal(t, []string{
		`{outcome="allowed",policy="search",store="redis"} 3`,
		`{outcome="denied",policy="default",store="memory"} 1`,
		`{outcome="denied",policy="search",store="shortcut"} 1`,
		`{outcome="unavailable",policy="default",store="fallback"} 1`,
	}, samples(scrape(t, m), "velocity_decisions_total"))
	assert.Equal(t, []ports.DecisionCount{
		{Policy: "default", Outcome: "denied", Store: decision.StoreMemory, Count: 1},
		{Policy: "default", Outcome: "unavailable", Store: decision.StoreFallback, Count: 1},
		{Policy: "search", Outcome: "allowed", Store: decision.StoreRedis, Count: 3},
		{Policy: "search", Outcome: "denied", Store: decision.StoreShortcut, Count: 1},
	}, m.Totals().Decisions)
}

func TestDecided_distinguishesTheOutcomes(t *testing.T) {
	m := named("default")
	for _, d := range []decision.Decision{
		{Outcome: decision.OutcomeAllowed, Store: decision.StoreRedis},
		{Outcome: decision.OutcomeAllowed, Store: decision.StoreRedis, Shadow: true},
		{Outcome: decision.OutcomeDenied, Store: decision.StoreRedis},
		{Outcome: decision.OutcomeDenied, Store: decision.StoreRedis, Shadow: true},
		{Outcome: decision.OutcomeBlocked, Store: decision.StorePolicy},
		{Outcome: decision.OutcomeBlocked, Store: decision.StorePolicy, Shadow: true},
		{Outcome: decision.OutcomeExempt, Store: decision.StorePolicy},
		{Outcome: decision.OutcomeUnavailable, Store: decision.StoreFallback},
	} {
		d.Policy = "default"
		m.Decided(&policy.Request{}, &d)
	}
	assert.Equal(t, []string{
		`{outcome="allowed",policy="default",store="redis"} 2`,
		`{outcome="blocked",policy="default",store="policy"} 2`,
		`{outcome="denied",policy="default",store="redis"} 1`,
		`{outcome="exempt",policy="default",store="policy"} 1`,
		`{outcome="shadow_denied",policy="default",store="redis"} 1`,
		`{outcome="unavailable",policy="default",store="fallback"} 1`,
	}, samples(scrape(t, m), "velocity_decisions_total"))
}

func TestDecided_aPolicyThatIsNotInForceHasNoNameOfItsOwn(t *testing.T) {
	m := named("default")
	for i := range 1000 {
		m.Decided(&policy.Request{}, decided(fmt.Sprint("brought-", i), decision.OutcomeDenied, decision.StoreRedis))
	}
	assert.Equal(t, []string{`{outcome="denied",policy="_other",store="redis"} 1000`},
		samples(scrape(t, m), "velocity_decisions_total"))
}

func TestDecided_countsPoliciesByNameUpToABound(t *testing.T) {
	m := metrics.New(metrics.Build{}, func(string) bool { return true })
	for i := range 1001 {
		m.Decided(&policy.Request{}, decided(fmt.Sprint("p", i), decision.OutcomeAllowed, decision.StoreRedis))
	}
	counts := m.Totals().Decisions
	require.Len(t, counts, 1001)
	assert.Equal(t, ports.DecisionCount{
		Policy: "_other", Outcome: "allowed", Store: decision.StoreRedis, Count: 1,
	}, counts[1000])
}

func TestDecided_allocatesNothing(t *testing.T) {
	m := named("default")
	req, d := policy.Request{}, decided("default", decision.OutcomeAllowed, decision.StoreRedis)
	assert.Zero(t, testing.AllocsPerRun(100, func() { m.Decided(&req, d) }))
}

func TestStoreFailed_countsByModeAndReason(t *testing.T) {
	m := named()
	m.StoreFailed("default", policy.FailOpen, fmt.Errorf("shard-0: %w", ports.ErrUnavailable))
	m.StoreFailed("default", policy.FailOpen, errors.New("anything"))
	m.StoreFailed("default", policy.FailLocal, fmt.Errorf("shard-0: %w", ports.ErrOverloaded))
	m.StoreFailed("default", "", errors.New("anything"))
	assert.Equal(t, []string{
		`{mode="closed",reason="outage"} 0`, `{mode="closed",reason="overload"} 0`,
		`{mode="local",reason="outage"} 0`, `{mode="local",reason="overload"} 1`,
		`{mode="none",reason="outage"} 1`, `{mode="none",reason="overload"} 0`,
		`{mode="open",reason="outage"} 2`, `{mode="open",reason="overload"} 0`,
	}, samples(scrape(t, m), "velocity_store_failures_total"))
}

// answering is a limiter that gives every request the same answer.
type answering struct {
	ports.Limiter
	answer ports.Answer
}

func (a answering) Decide(context.Context, policy.Request) (decision.Decision, error) {
	return a.answer.Decision, a.answer.Err
}

func (a answering) DecideMany(_ context.Context, _ []policy.Request, answers []ports.Answer) {
	for i := range answers {
		answers[i] = a.answer
	}
}

func TestMeasure_timesWhatIsCounted(t *testing.T) {
	m := named("default")
	byRedis := m.Measure(answering{answer: ports.Answer{Decision: *decided("default", decision.OutcomeDenied, decision.StoreRedis)}})
	take := policy.Request{Cost: 1}
	_, err := byRedis.Decide(t.Context(), take)
	require.NoError(t, err)
	many := []policy.Request{take, {Cost: 0}, {Op: domain.OpRefund, Cost: 1}, {Op: domain.OpPeek}, take}
	byRedis.DecideMany(t.Context(), many, make([]ports.Answer, len(many)))
	failing := m.Measure(answering{answer: ports.Answer{Err: ports.ErrUnknownPolicy}})
	_, err = failing.Decide(t.Context(), take)
	require.Error(t, err)

	assert.Equal(t, []string{
		`{store="fallback"} 0`, `{store="memory"} 0`, `{store="policy"} 0`, `{store="redis"} 3`, `{store="shortcut"} 0`,
	}, samples(scrape(t, m), "velocity_decision_duration_seconds_count"))
	total := m.Totals().Latency
	require.Len(t, total.Counts, len(total.Bounds)+1)
	n := uint64(0)
	for _, c := range total.Counts {
		n += c
	}
	assert.Equal(t, uint64(3), n)
	assert.Positive(t, total.Sum)
}

// shardStats is a source whose numbers do not change.
type shardStats []ports.ShardStats

func (s shardStats) Stats() []ports.ShardStats { return s }

var twoShards = shardStats{
	{
		Name: "shard-0", Breaker: ports.BreakerClosed, Up: true, Queued: 3, InFlight: 1, Batches: 4, Groups: 9,
		BatchSeconds: ports.Histogram{Bounds: []float64{.001, .01}, Counts: []uint64{2, 1, 1}, Sum: .5},
		BatchGroups:  ports.Histogram{Bounds: []float64{1, 8}, Counts: []uint64{3, 1, 0}, Sum: 9},
	},
	{
		Name: "shard-1", Breaker: ports.BreakerHalfOpen, Refused: 5, Overloaded: 6, Openings: 1,
		Failures:  map[string]uint64{"timeout": 2, "oom": 0},
		ClockSkew: 1500 * time.Millisecond,
	},
}

// A request is held after its decision. That time is not the limiter's.
func TestMeasure_leavesOutTheWait(t *testing.T) {
	const wait = 50 * time.Millisecond
	d := decided("default", decision.OutcomeAllowed, decision.StoreRedis)
	d.Wait = wait
	for name, c := range map[string]struct {
		hold bool
		want string
	}{"held": {true, "2"}, "waits itself": {false, "0"}} {
		m := named("default")
		synctest.Test(t, func(t *testing.T) { // time stands still but for the wait
			limiter := m.Measure(sleeping{answering{answer: ports.Answer{Decision: *d}}, wait})
			req := policy.Request{Cost: 1, Hold: c.hold}
			_, err := limiter.Decide(t.Context(), req)
			require.NoError(t, err)
			limiter.DecideMany(t.Context(), []policy.Request{req}, make([]ports.Answer, 1))
		})
		assert.Contains(t, samples(scrape(t, m), "velocity_decision_duration_seconds_bucket"), `{store="redis",le="0.025"} `+c.want, name)
	}
}

// sleeping takes its time.
type sleeping struct {
	answering
	wait time.Duration
}

func (s sleeping) Decide(ctx context.Context, req policy.Request) (decision.Decision, error) {
	time.Sleep(s.wait)
	return s.answering.Decide(ctx, req)
}

func (s sleeping) DecideMany(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	time.Sleep(s.wait)
	s.answering.DecideMany(ctx, reqs, answers)
}

func TestWatchShards(t *testing.T) {
	exposition := scrape(t, whole())
	for name, want := range map[string][]string{
		"velocity_shard_up":                         {`{shard="shard-0"} 1`, `{shard="shard-1"} 0`},
		"velocity_shard_queued_groups":              {`{shard="shard-0"} 3`, `{shard="shard-1"} 0`},
		"velocity_shard_inflight_batches":           {`{shard="shard-0"} 1`, `{shard="shard-1"} 0`},
		"velocity_shard_batches_total":              {`{shard="shard-0"} 4`, `{shard="shard-1"} 0`},
		"velocity_shard_groups_total":               {`{shard="shard-0"} 9`, `{shard="shard-1"} 0`},
		"velocity_shard_refused_groups_total":       {`{shard="shard-0"} 0`, `{shard="shard-1"} 5`},
		"velocity_shard_overloaded_groups_total":    {`{shard="shard-0"} 0`, `{shard="shard-1"} 6`},
		"velocity_shard_breaker_openings_total":     {`{shard="shard-0"} 0`, `{shard="shard-1"} 1`},
		"velocity_shard_clock_skew_seconds":         {`{shard="shard-0"} 0`, `{shard="shard-1"} 1.5`},
		"velocity_shard_failures_total":             {`{kind="timeout",shard="shard-1"} 2`},
		"velocity_shard_batch_duration_seconds_sum": {`{shard="shard-0"} 0.5`, `{shard="shard-1"} 0`},
		"velocity_shard_breaker_state": {
			`{shard="shard-0",state="closed"} 1`, `{shard="shard-0",state="half-open"} 0`, `{shard="shard-0",state="open"} 0`,
			`{shard="shard-1",state="closed"} 0`, `{shard="shard-1",state="half-open"} 1`, `{shard="shard-1",state="open"} 0`,
		},
		"velocity_shard_batch_duration_seconds_bucket": {
			`{shard="shard-0",le="0.001"} 2`, `{shard="shard-0",le="0.01"} 3`, `{shard="shard-0",le="+Inf"} 4`,
			`{shard="shard-1",le="+Inf"} 0`,
		},
		"velocity_shard_batch_groups_bucket": {
			`{shard="shard-0",le="1"} 3`, `{shard="shard-0",le="8"} 4`, `{shard="shard-0",le="+Inf"} 4`,
			`{shard="shard-1",le="+Inf"} 0`,
		},
	} {
		assert.Equal(t, want, samples(exposition, name), name)
	}
}

// whole returns metrics with everything exposed.
func whole() *metrics.Metrics {
	m := named("default")
	for _, store := range []string{"memory", "local"} {
		m.WatchMemory(store, func() (int, uint64) { return 7, 2 })
	}
	m.WatchDenialCache(func() int { return 5 }, func() uint64 { return 9 })
	m.WatchShards(twoShards)
	m.WatchReloads(func() (uint64, uint64, bool) { return 8, 1, true })
	m.WatchEnvoyReloads(func() (uint64, uint64, bool) { return 9, 2, false })
	m.WatchTokens([]string{"expired", "signature"}, func(i int) uint64 { return uint64(i) + 3 },
		func() (uint64, uint64) { return 6, 7 }, func() (bool, bool) { return true, false })
	upstream := m.WatchUpstream()
	for status, took := range map[int]time.Duration{
		0: time.Second, 101: time.Millisecond, 200: 2 * time.Millisecond, 503: time.Minute, 999: time.Second,
	} {
		upstream.Answered(status, took)
	}
	m.WatchLog(func() uint64 { return 4 })
	m.WatchOverrides(func() ports.OverridesStatus {
		return ports.OverridesStatus{Count: 12, Known: true, Behind: 1500 * time.Millisecond}
	})
	m.WatchUnfitOverrides(func() map[string]int { return map[string]int{"default": 0, "shared/tenant": 3} })
	m.Decided(&policy.Request{}, decided("default", decision.OutcomeAllowed, decision.StoreRedis))
	m.PermitsHeld("default", 2)
	m.PermitsHeld("default", -1)
	m.PermitExpired("default")
	m.Waiting("default", 3)
	m.Waiting("default", -2)
	m.Waited("default", ports.WaitServed)
	m.Waited("default", ports.WaitServed)
	m.Waited("default", ports.WaitFull)
	m.Waited("invented by a client", ports.WaitLeft)
	m.Settled("default", 1000, 40, false)
	m.Settled("default", 1000, 1500, false)
	m.Settled("default", 1000, 1000, true)
	m.Settled("invented by a client", 1, 0, false)
	m.DebtReached("default")
	return m
}

func TestHandler_watchesTheRest(t *testing.T) {
	exposition := scrape(t, whole())
	for name, want := range map[string][]string{
		"velocity_memory_buckets":          {`{store="local"} 7`, `{store="memory"} 7`},
		"velocity_memory_evictions_total":  {`{store="local"} 2`, `{store="memory"} 2`},
		"velocity_shortcut_entries":        {" 5"},
		"velocity_shortcut_hits_total":     {" 9"},
		"velocity_log_lines_dropped_total": {" 4"},
		"velocity_permits_held":            {`{policy="default"} 1`},
		"velocity_permits_expired_total":   {`{policy="default"} 1`},
		"velocity_waiting":                 {`{policy="_other"} 0`, `{policy="default"} 1`},
		"velocity_waits_total": {
			`{outcome="full",policy="_other"} 0`, `{outcome="full",policy="default"} 1`, `{outcome="left",policy="_other"} 1`,
			`{outcome="left",policy="default"} 0`, `{outcome="served",policy="_other"} 0`, `{outcome="served",policy="default"} 2`,
		},
		"velocity_usage_tokens_total": {
			`{kind="actual",policy="_other"} 0`, `{kind="actual",policy="default"} 2540`,
			`{kind="charged",policy="_other"} 0`, `{kind="charged",policy="default"} 500`,
			`{kind="estimated",policy="_other"} 1`, `{kind="estimated",policy="default"} 3000`,
			`{kind="returned",policy="_other"} 1`, `{kind="returned",policy="default"} 960`,
		},
		"velocity_usage_missing_total":        {`{policy="_other"} 0`, `{policy="default"} 1`},
		"velocity_debt_reached_total":         {`{policy="_other"} 0`, `{policy="default"} 1`},
		"velocity_policy_reloads_total":       {`{result="failure"} 1`, `{result="success"} 8`},
		"velocity_policy_file_stale":          {" 1"},
		"velocity_tokens_rejected_total":      {`{reason="expired"} 3`, `{reason="signature"} 4`},
		"velocity_token_key_loads_total":      {`{result="failure"} 7`, `{result="success"} 6`},
		"velocity_token_keys_missing":         {" 1"},
		"velocity_token_keys_stale":           {" 0"},
		"velocity_overrides":                  {" 12"},
		"velocity_overrides_behind_seconds":   {" 1.5"},
		"velocity_overrides_unfit":            {`{policy="default"} 0`, `{policy="shared/tenant"} 3`},
		"velocity_envoy_config_reloads_total": {`{result="failure"} 2`, `{result="success"} 9`},
		"velocity_envoy_config_stale":         {" 0"},
		"velocity_upstream_answers_total": {
			`{class="1xx"} 1`, `{class="2xx"} 1`, `{class="3xx"} 0`, `{class="4xx"} 0`, `{class="5xx"} 1`, `{class="none"} 2`,
		},
		"velocity_upstream_duration_seconds_count": {" 3"},
		"velocity_build_info":                      {`{goversion="go1",revision="abc",version="v1.2.3"} 1`},
	} {
		assert.Equal(t, want, samples(exposition, name), name)
	}
	assert.NotEmpty(t, samples(exposition, "go_goroutines"))
	assert.NotEmpty(t, samples(exposition, "process_open_fds"))
}

func TestHandler_followsTheConventions(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(scrape(t, whole()))).Lint()
	require.NoError(t, err)
	assert.Empty(t, problems)
}

func TestHandler_doesNotGrowWithClients(t *testing.T) {
	m := whole()
	limiter := m.Measure(answering{answer: ports.Answer{Decision: *decided("default", decision.OutcomeDenied, decision.StoreRedis)}})
	before := strings.Count(scrape(t, m), "\n")
	for i := range 200_000 {
		client := fmt.Sprint("client-", i)
		req := policy.Request{Cost: 1, Key: client, ID: client, Path: "/" + client}
		d, err := limiter.Decide(t.Context(), req)
		require.NoError(t, err)
		d.Client = client
		m.Decided(&req, &d)
	}
	exposition := scrape(t, m)
	assert.NotContains(t, exposition, "client-")
	assert.Less(t, strings.Count(exposition, "\n"), 2000)
	assert.LessOrEqual(t, strings.Count(exposition, "\n"), before+1, "the outcome that is new")
}

func BenchmarkDecided(b *testing.B) {
	m := named("default")
	req, d := policy.Request{}, decided("default", decision.OutcomeAllowed, decision.StoreRedis)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Decided(&req, d)
		}
	})
}

func BenchmarkMeasure(b *testing.B) {
	limiter := answering{answer: ports.Answer{Decision: *decided("default", decision.OutcomeAllowed, decision.StoreRedis)}}
	for name, l := range map[string]ports.Limiter{"without": limiter, "with": named("default").Measure(limiter)} {
		b.Run(name, func(b *testing.B) {
			reqs, answers := []policy.Request{{Cost: 1}}, make([]ports.Answer, 1)
			b.ReportAllocs()
			for b.Loop() {
				l.DecideMany(b.Context(), reqs, answers)
			}
		})
	}
}

func BenchmarkHandler(b *testing.B) {
	h := whole().Handler()
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/metrics", http.NoBody))
		_, _ = io.Copy(io.Discard, w.Body)
	}
}
