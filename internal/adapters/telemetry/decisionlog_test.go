package telemetry_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func allowed() decision.Decision {
	return decision.Decision{
		Outcome: decision.OutcomeAllowed, Policy: "default", Client: "alice", Store: decision.StoreRedis, LevelKnown: true,
		At:     1_700_000_000_123_456,
		Limits: []domain.LimitStatus{{Name: "burst", Allowed: true, Capacity: 10, Remaining: 9}},
	}
}

func denied(retryAfter time.Duration) decision.Decision {
	d := allowed()
	d.Outcome = decision.OutcomeDenied
	d.Limits[0].Allowed, d.Limits[0].Remaining, d.Limits[0].RetryAfter = false, 0, retryAfter
	return d
}

// logged returns what one decision leaves in the log, without the time.
func logged(t *testing.T, cfg telemetry.Config, req policy.Request, d decision.Decision) []map[string]any {
	t.Helper()
	var out output
	log := newLogger(t, cfg, &out)
	telemetry.NewDecisionLog(cfg, log).Decided(&req, &d)
	require.NoError(t, log.Close())
	lines := out.lines(t)
	for _, line := range lines {
		delete(line, "time")
	}
	return lines
}

func TestDecided_lines(t *testing.T) {
	unavailable := decision.Decision{
		Outcome: decision.OutcomeUnavailable, Policy: "default", Client: "alice", Store: decision.StoreFallback,
		Limits: []domain.LimitStatus{{Name: "burst", Capacity: 10}},
	}
	failedOpen := unavailable
	failedOpen.Outcome = decision.OutcomeAllowed
	noKey := allowed()
	noKey.UsedFallbackKey, noKey.Client = true, "192.0.2.7"
	shadowed := denied(time.Second)
	shadowed.Shadow = true
	byList := func(o decision.Outcome) decision.Decision {
		return decision.Decision{Outcome: o, Policy: "default", Client: "alice", Store: decision.StorePolicy}
	}
	indebted := allowed()
	indebted.Limits[0].Remaining = -5

	tests := []struct {
		name string
		req  policy.Request
		d    decision.Decision
		want map[string]any
	}{
		{"allowed", policy.Request{ID: "r-1"}, allowed(), map[string]any{
			"level": "info", "msg": "Decision: ALLOWED", "userID": "alice", "remaining": 9.0, "limit": 10.0,
			"policy": "default", "store": "redis", "storeTimeUs": 1700000000123456.0, "requestID": "r-1",
		}},
		{"blocked, the wait rounded up", policy.Request{}, denied(1001 * time.Millisecond), map[string]any{
			"level": "info", "msg": "Decision: BLOCKED (429)", "userID": "alice", "reason": 429.0, "retryAfter": 2.0,
			"limit": 10.0, "policy": "default", "store": "redis", "storeTimeUs": 1700000000123456.0,
		}},
		{"blocked, a whole second", policy.Request{}, denied(time.Second), map[string]any{
			"level": "info", "msg": "Decision: BLOCKED (429)", "userID": "alice", "reason": 429.0, "retryAfter": 1.0,
			"limit": 10.0, "policy": "default", "store": "redis", "storeTimeUs": 1700000000123456.0,
		}},
		{"a cost that can never pass", policy.Request{}, denied(domain.Never), map[string]any{
			"level": "info", "msg": "Decision: BLOCKED (429)", "userID": "alice", "reason": 429.0, "retryAfter": -1.0,
			"limit": 10.0, "policy": "default", "store": "redis", "storeTimeUs": 1700000000123456.0,
		}},
		{"failed closed", policy.Request{}, unavailable, map[string]any{
			"level": "info", "msg": "Decision: BLOCKED (503)", "userID": "alice", "reason": 503.0,
			"limit": 10.0, "policy": "default", "store": "fallback",
		}},
		{"failed open: no level is known", policy.Request{}, failedOpen, map[string]any{
			"level": "info", "msg": "Decision: ALLOWED", "userID": "alice",
			"limit": 10.0, "policy": "default", "store": "fallback",
		}},
		{"in shadow mode, what it would have been", policy.Request{}, shadowed, map[string]any{
			"level": "info", "msg": "Decision: BLOCKED (429)", "userID": "alice", "reason": 429.0, "retryAfter": 1.0,
			"limit": 10.0, "policy": "default", "store": "redis", "storeTimeUs": 1700000000123456.0, "shadow": true,
		}},
		{"on the policy's list of the blocked", policy.Request{}, byList(decision.OutcomeBlocked), map[string]any{
			"level": "info", "msg": "Decision: BLOCKED (403)", "userID": "alice", "reason": 403.0, "policy": "default", "store": "policy",
		}},
		{"on the policy's list of the exempt", policy.Request{}, byList(decision.OutcomeExempt), map[string]any{
			"level": "info", "msg": "Decision: ALLOWED", "userID": "alice", "exempt": true, "policy": "default", "store": "policy",
		}},
		{"the address takes the place of the key", policy.Request{}, noKey, map[string]any{
			"level": "info", "msg": "Decision: ALLOWED", "userID": "192.0.2.7", "remaining": 9.0, "limit": 10.0,
			"policy": "default", "store": "redis", "storeTimeUs": 1700000000123456.0, "keyMissing": true,
		}},
		{"a debt is no negative remainder", policy.Request{}, indebted, map[string]any{
			"level": "info", "msg": "Decision: ALLOWED", "userID": "alice", "remaining": 0.0, "limit": 10.0,
			"policy": "default", "store": "redis", "storeTimeUs": 1700000000123456.0,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, []map[string]any{tt.want}, logged(t, all, tt.req, tt.d))
		})
	}
}

func TestDecided_filter(t *testing.T) {
	tests := []struct {
		filter                  telemetry.Decisions
		level                   string
		wantAllowed, wantDenied int
	}{
		{telemetry.DecisionsAll, "info", 1, 1},
		{telemetry.DecisionsBlocked, "info", 0, 1},
		{telemetry.DecisionsNone, "info", 0, 0},
		{telemetry.DecisionsAll, "warn", 0, 0},
	}
	for _, tt := range tests {
		t.Run(string(tt.filter)+" at "+tt.level, func(t *testing.T) {
			cfg := telemetry.Config{LogLevel: tt.level, LogDecisions: tt.filter}
			assert.Len(t, logged(t, cfg, policy.Request{}, allowed()), tt.wantAllowed, "allowed")
			assert.Len(t, logged(t, cfg, policy.Request{}, denied(time.Second)), tt.wantDenied, "denied")
			shadowed, exempt := denied(time.Second), decision.Decision{Outcome: decision.OutcomeExempt}
			shadowed.Shadow = true
			assert.Len(t, logged(t, cfg, policy.Request{}, shadowed), tt.wantDenied, "denied in shadow mode")
			assert.Len(t, logged(t, cfg, policy.Request{}, exempt), tt.wantAllowed, "exempt")
		})
	}
}

func TestDecided_allMeansEveryOne(t *testing.T) {
	var out output
	log := newLogger(t, all, &out)
	decisions := telemetry.NewDecisionLog(all, log)
	const n = 10_000
	for i := range n {
		d := denied(time.Second)
		d.Client = fmt.Sprint(i)
		decisions.Decided(&policy.Request{}, &d)
	}
	require.NoError(t, log.Close())

	lines := out.lines(t)
	require.Len(t, lines, n)
	for i, line := range lines {
		require.Equal(t, fmt.Sprint(i), line["userID"])
	}
}

func TestDecided_cutsLongValuesBetweenRunes(t *testing.T) {
	tests := []struct{ name, client, want string }{
		{"exactly at the bound", strings.Repeat("a", 128), strings.Repeat("a", 128)},
		{"one over", strings.Repeat("a", 129), strings.Repeat("a", 128)},
		{"a rune across the bound", strings.Repeat("a", 126) + "\U0001F600b", strings.Repeat("a", 126)},
		{"no UTF-8 at all", strings.Repeat("\x80", 200), strings.Repeat("\uFFFD", 128)},
		{"control characters", "a\r\nb\x00", "a\r\nb\x00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := allowed()
			d.Client = tt.client
			lines := logged(t, all, policy.Request{ID: tt.client}, d)
			require.Len(t, lines, 1)
			assert.Equal(t, tt.want, lines[0]["userID"])
			assert.Equal(t, tt.want, lines[0]["requestID"])
		})
	}
}

func TestStoreFailed_messages(t *testing.T) {
	outage := fmt.Errorf("shard-0: connection refused: %w", ports.ErrUnavailable)
	overload := fmt.Errorf("shard-0: %w", ports.ErrOverloaded)
	tests := []struct {
		mode       policy.FailureMode
		cause      error
		level, msg string
	}{
		{policy.FailOpen, outage, "error", "Critical Redis Error: Falling back to Fail-Open Policy"},
		{policy.FailClosed, outage, "error", "Critical Redis Error: Falling back to Fail-Closed Policy"},
		{policy.FailLocal, outage, "error", "Critical Redis Error: Falling back to Local Policy"},
		{policy.FailLocal, overload, "warn", "Overload: Falling back to Local Policy"},
		{policy.FailClosed, overload, "warn", "Overload: Falling back to Fail-Closed Policy"},
		{"", outage, "error", "Critical Redis Error: A refund, charge, release or renewal failed"},
		{"", overload, "warn", "Overload: A refund, charge, release or renewal was not carried out"},
	}
	for _, tt := range tests {
		t.Run(tt.msg, func(t *testing.T) {
			var out output
			log := newLogger(t, all, &out)
			telemetry.NewDecisionLog(all, log).StoreFailed("search", tt.mode, tt.cause)
			require.NoError(t, log.Close())

			lines := out.lines(t)
			require.Len(t, lines, 1)
			delete(lines[0], "time")
			assert.Equal(t, map[string]any{
				"level": tt.level, "msg": tt.msg, "policy": "search", "error": tt.cause.Error(), "suppressed": 0.0,
			}, lines[0])
		})
	}
}

func TestStoreFailed_anOutageCannotFillTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out output
		log := newLogger(t, all, &out)
		decisions := telemetry.NewDecisionLog(all, log)
		const seconds, perSecond = 60, 1000
		for range seconds {
			for range perSecond {
				decisions.StoreFailed("default", policy.FailOpen, errors.New(strings.Repeat("x", 5000)))
			}
			time.Sleep(time.Second)
		}
		require.NoError(t, log.Close())

		lines := out.lines(t)
		require.Len(t, lines, 6, "one in ten seconds")
		assert.InDelta(t, 0, lines[0]["suppressed"], 0)
		for _, line := range lines[1:] {
			assert.InDelta(t, 10*perSecond-1, line["suppressed"], 0)
			assert.Len(t, line["error"], 512)
		}
	})
}
