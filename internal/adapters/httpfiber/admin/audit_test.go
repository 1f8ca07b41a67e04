package admin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// logged are the lines of a log in JSON.
type logged struct{ strings.Builder }

// logger writes the lines without time and level.
func (l *logged) logger() *zap.Logger {
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"})
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(l), zap.InfoLevel))
}

// startAdminOf starts an admin plane that logs to log, which may be nil.
func startAdminOf(
	t *testing.T, state admin.ServiceState, health shards, log *zap.Logger, options ...admin.Option,
) string {
	t.Helper()
	return startAudited(t, admin.Config{}, fakeInspector{}, state, health, log, options...)
}

func startAudited(
	t *testing.T, cfg admin.Config, inspector ports.Inspector, state admin.ServiceState, health shards, log *zap.Logger,
	options ...admin.Option,
) string {
	t.Helper()
	if log == nil {
		log = zap.NewNop()
	}
	cfg.Addr = "127.0.0.1:0"
	a, err := admin.New(cfg, inspector, health, state, log, options...)
	require.NoError(t, err)
	ln, err := a.Listen()
	require.NoError(t, err)
	serve(t, a, ln)
	return "http://" + ln.Addr().String()
}

// audited is a plane with one client, alice, that has an override.
func audited(t *testing.T, cfg admin.Config, fails error, log *logged, options ...admin.Option) string {
	t.Helper()
	old := ports.Override{Key: "alice", Block: true, SetAt: setAt}
	daily := quotaOf(t, "daily", 1000, "day", "", "")
	now := domain.InstantOf(time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC))
	inspector := fakeInspector{
		inspect: func(ports.ClientID) (ports.BucketReport, error) {
			return ports.BucketReport{
				Policy: "search", Source: "ip", Store: decision.StoreRedis, Now: now,
				Limits: []ports.LimitLevel{{Limit: daily, State: domain.State{Amount: 7, At: now, TokenCredits: 1}}},
			}, fails
		},
		reset: func(ports.ClientID) error { return fails },
		end:   func(ports.ClientID, string) (int, error) { return 2, fails },
	}
	version := 0
	options = append(options,
		admin.WithOverrides(fakeOverrides{
			set: func(_ ports.ClientID, o ports.Override) (*ports.Override, ports.Override, error) {
				if fails != nil {
					return nil, ports.Override{}, fails
				}
				o.Key, o.SetAt = "alice", setAt.Add(time.Hour)
				return &old, o, nil
			},
			end: func(ports.ClientID) (ports.Override, error) {
				return ports.Override{Key: "alice", Limits: []limitspec.Spec{{Name: "burst", Cost: 2}}, SetAt: setAt}, fails
			},
		}),
		admin.WithReload(func() admin.Reloaded {
			return admin.Reloaded{Policies: 3, Version: fmt.Sprint("v", version)}
		}, func() error {
			version++
			return fails
		}))
	return startAudited(t, cfg, inspector, admin.ServiceState{}, nil, log.logger(), options...)
}

var everyChange = []struct{ method, path, body string }{
	{"PUT", "/v1/overrides/search/alice", `{"exempt":true,"note":"n"}`},
	{"DELETE", "/v1/overrides/search/alice?source=ip", ""},
	{"DELETE", "/v1/buckets/search/alice", ""},
	{"DELETE", "/v1/permits/search/alice", ""},
	{"DELETE", "/v1/permits/search/alice/p1", ""},
	{"POST", "/v1/reload", ""},
}

func TestAudit_logsEachChange(t *testing.T) {
	for actor, cfg := range map[string]admin.Config{"token": {Token: "secret"}, "loopback": {}} {
		var log logged
		url := audited(t, cfg, nil, &log)
		for _, c := range everyChange {
			got := call(t, c.method, url+c.path, c.body, "Content-Type", jsonType, "X-Request-Id", "r1", "Authorization", "Bearer secret")
			require.Less(t, got.status, 300, got.body)
		}
		const same = `{"msg":"Audit","action":"ACTION","policy":"search","key":"alice",`
		const by, end = `"actor":"ACTOR","peer":"PEER",`, `,"requestID":"r1"}`
		var want []string
		for _, line := range []string{
			strings.Replace(same, "ACTION", "set_override", 1) + by + `"before":{"block":true,"set_at":"2026-11-28T23:00:00Z"},` +
				`"after":{"exempt":true,"note":"n","set_at":"2026-11-29T00:00:00Z"}` + end,
			strings.Replace(same, "ACTION", "end_override", 1) + `"source":"ip",` + by +
				`"before":{"limits":[{"name":"burst","cost":2}],"set_at":"2026-11-28T23:00:00Z"}` + end,
			strings.Replace(same, "ACTION", "reset", 1) + by + `"before":[{"name":"daily","kind":"quota","rate":"1000/day","limit":1000,"used":7,` +
				`"period_start":"2026-03-29T00:00:00Z","period_end":"2026-03-30T00:00:00Z","updated_at":"2026-03-29T12:00:00Z"}]` + end,
			strings.Replace(same, "ACTION", "end_permits", 1) + by + `"after":{"ended":2}` + end,
			strings.Replace(same, "ACTION", "end_permits", 1) + `"permit":"p1",` + by + `"after":{"ended":2}` + end,
			`{"msg":"Audit","action":"reload",` + by + `"before":{"policies":3,"version":"v0"},"after":{"policies":3,"version":"v1"}` + end,
		} {
			want = append(want, strings.Replace(line, "ACTOR", actor, 1))
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		for i, line := range lines {
			var fields map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
			peer, _ := fields["peer"].(string)
			assert.Regexp(t, `^127\.0\.0\.1:\d+$`, peer)
			lines[i] = strings.Replace(line, peer, "PEER", 1)
		}
		assert.Equal(t, want, lines)
	}
}

func TestAudit_leavesOutWhatWasRefused(t *testing.T) {
	for _, err := range []error{
		ports.ErrNoOverride, ports.ErrUnknownPolicy, ports.ErrOverridesFull, errors.New("a broken file"),
		&domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must not be empty"},
	} {
		var log logged
		url := audited(t, admin.Config{}, err, &log)
		for _, c := range everyChange {
			call(t, c.method, url+c.path, c.body, "Content-Type", jsonType)
		}
		assert.Empty(t, log.String())
	}
}

func TestAudit_logsWhatMayHaveBeenDone(t *testing.T) {
	const again = "the store does not answer: send it again, it counts once"
	for err, partly := range map[error]string{
		ports.ErrUnavailable: again,
		ports.ErrOverloaded:  again,
		ports.ErrCorrupt:     "what the store holds for this key cannot be read; a reset replaces it",
		ports.ErrInvalidTake: "the request cannot be decided",
	} {
		var log logged
		url := audited(t, admin.Config{}, err, &log)
		for _, c := range everyChange[:5] {
			got := call(t, c.method, url+c.path, c.body, "Content-Type", jsonType)
			assert.Contains(t, []int{422, 503}, got.status)
			if strings.HasPrefix(c.path, "/v1/permits/") {
				assert.Equal(t, partly, got.problem(t)["detail"])
			}
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		require.Len(t, lines, 5)
		for _, line := range lines {
			assert.Contains(t, line, `"error":"`+err.Error()+`"`)
			assert.NotContains(t, line, `"before"`, "it is not known")
		}
		assert.Contains(t, lines[0], `"after":{"exempt":true,"note":"n"}`, "what was asked for")
		assert.Contains(t, lines[3], `"after":{"ended":2}`)
	}
}

func TestAudit_showsKeysAsTheServiceDoes(t *testing.T) {
	var log logged
	url := audited(t, admin.Config{}, nil, &log, admin.WithShownKeys(func(id ports.ClientID) string { return "hmac:of-" + id.Policy }))
	for _, c := range everyChange[:5] {
		path := strings.Replace(c.path, "alice", "raw-key", 1)
		call(t, c.method, url+path, c.body, "Content-Type", jsonType)
	}
	assert.NotContains(t, log.String(), "raw-key")
	assert.Equal(t, 3, strings.Count(log.String(), `"key":"hmac:of-search"`))
	assert.Equal(t, 2, strings.Count(log.String(), `"key":"alice"`), "as the override has it")
}
