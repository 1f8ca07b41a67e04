package admin_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// fakeOverrides is a ports.Overrides. A nil func must not be called; a nil status is known.
type fakeOverrides struct {
	get    func(ports.ClientID) (ports.Override, error)
	set    func(ports.ClientID, ports.Override) (*ports.Override, ports.Override, error)
	end    func(ports.ClientID) (ports.Override, error)
	list   func(policyName, after string, limit int) ([]ports.Override, string, error)
	status func() ports.OverridesStatus
	owners []string
}

func (f fakeOverrides) Override(_ context.Context, id ports.ClientID) (ports.Override, error) {
	return f.get(id)
}

func (f fakeOverrides) SetOverride(_ context.Context, id ports.ClientID, o ports.Override) (*ports.Override, ports.Override, error) {
	before, after, err := f.set(id, o)
	after.Key = cmp.Or(after.Key, id.Key)
	return before, after, err
}

func (f fakeOverrides) EndOverride(_ context.Context, id ports.ClientID) (ports.Override, error) {
	return f.end(id)
}

func (f fakeOverrides) ListOverrides(_ context.Context, policyName, after string, limit int) ([]ports.Override, string, error) {
	return f.list(policyName, after, limit)
}

func (f fakeOverrides) OverridesStatus() ports.OverridesStatus {
	if f.status == nil {
		return ports.OverridesStatus{Known: true}
	}
	return f.status()
}

func (f fakeOverrides) Overridden() []string { return f.owners }

var setAt = time.Date(2026, 11, 28, 23, 0, 0, 0, time.UTC)

const jsonType = "application/json"

func TestOverrides_putSetsWhatTheBodySays(t *testing.T) {
	for _, c := range []struct {
		path, body, answer string
		local              bool
		client             ports.ClientID
		want               ports.Override
	}{
		{
			path: "search/alice", client: ports.ClientID{Policy: "search", Key: "alice"},
			body: `{"limits":[{"name":"burst","rate":"50/s","capacity":100}],"expires_at":"2127-01-31T00:00:00Z","note":"ticket 123"}`,
			want: ports.Override{
				Limits:    []limitspec.Spec{{Name: "burst", Rate: "50/s", Capacity: 100}},
				ExpiresAt: time.Date(2127, 1, 31, 0, 0, 0, 0, time.UTC), Note: "ticket 123",
			},
			answer: `{"key":"alice","limits":[{"name":"burst","rate":"50/s","capacity":100}],"expires_at":"2127-01-31T00:00:00Z",
				"note":"ticket 123","set_at":"2026-11-28T23:00:00Z"}`,
		},
		{
			path: "search/alice", client: ports.ClientID{Policy: "search", Key: "alice"},
			body: `{"limits":[{"cost":2},{"name":"burst","cost":3}]}`, want: ports.Override{Limits: []limitspec.Spec{{Name: "search", Cost: 2}, {Name: "burst", Cost: 3}}},
			answer: `{"key":"alice","limits":[{"name":"search","cost":2},{"name":"burst","cost":3}],"set_at":"2026-11-28T23:00:00Z"}`,
		},
		{
			path: "shared%2Ftenant/a", client: ports.ClientID{Policy: "shared/tenant", Key: "a"},
			body: `{"limits":[{"cost":2}]}`, want: ports.Override{Limits: []limitspec.Spec{{Name: "tenant", Cost: 2}}},
			answer: `{"key":"a","limits":[{"name":"tenant","cost":2}],"set_at":"2026-11-28T23:00:00Z"}`,
		},
		{
			path: "shared%2Ftenant/a%2Fb%20c", client: ports.ClientID{Policy: "shared/tenant", Key: "a/b c"}, local: true,
			body: `{"exempt":true}`, want: ports.Override{Exempt: true},
			answer: `{"key":"a/b c","exempt":true,"set_at":"2026-11-28T23:00:00Z","local":true}`,
		},
		{
			path: "search/192.0.2.7?source=ip", client: ports.ClientID{Policy: "search", Key: "192.0.2.7", Source: "ip"},
			body: `{"block":true}`, want: ports.Override{Block: true},
			answer: `{"key":"192.0.2.7","block":true,"set_at":"2026-11-28T23:00:00Z"}`,
		},
	} {
		url := startAdminWith(t, admin.Config{}, admin.WithOverrides(fakeOverrides{
			set: func(id ports.ClientID, o ports.Override) (*ports.Override, ports.Override, error) {
				assert.Equal(t, c.client, id)
				assert.Equal(t, c.want, o)
				o.SetAt = setAt
				return nil, o, nil
			},
			status: func() ports.OverridesStatus { return ports.OverridesStatus{Known: true, Local: c.local} },
		}))
		got := call(t, "PUT", url+"/v1/overrides/"+c.path, c.body, "Content-Type", jsonType)
		require.Equal(t, 200, got.status, got.body)
		assert.JSONEq(t, c.answer, got.body)
	}
}

func TestOverrides_getAndDelete(t *testing.T) {
	alice := ports.Override{Key: "alice", Exempt: true, Note: `<b>"\u00ff"</b>`, SetAt: setAt}
	var ended []ports.ClientID
	url := startAdminWith(t, admin.Config{}, admin.WithOverrides(fakeOverrides{
		get: func(id ports.ClientID) (ports.Override, error) {
			assert.Equal(t, ports.ClientID{Policy: "search", Key: "alice"}, id)
			return alice, nil
		},
		end: func(id ports.ClientID) (ports.Override, error) {
			ended = append(ended, id)
			return alice, nil
		},
	}))
	got := call(t, "GET", url+"/v1/overrides/search/alice", "")
	require.Equal(t, 200, got.status, got.body)
	var body map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.body), &body))
	assert.Equal(t, map[string]any{"key": "alice", "exempt": true, "note": alice.Note, "set_at": "2026-11-28T23:00:00Z"}, body)

	gone := call(t, "DELETE", url+"/v1/overrides/search/192.0.2.7?source=ip", "")
	assert.Equal(t, 204, gone.status)
	assert.Empty(t, gone.body)
	assert.Equal(t, []ports.ClientID{{Policy: "search", Key: "192.0.2.7", Source: "ip"}}, ended)
	assert.Equal(t, 405, call(t, "POST", url+"/v1/overrides/search/alice", "").status)
}

func TestOverrides_listHasPages(t *testing.T) {
	for query, want := range map[string][]any{
		"":                             {"search", "", 100},
		"?limit=2":                     {"search", "", 2},
		"?limit=1000&after=a%26b%2Fc+": {"search", "a&b/c ", 1000},
	} {
		url := startAdminWith(t, admin.Config{}, admin.WithOverrides(fakeOverrides{
			list: func(policyName, after string, limit int) ([]ports.Override, string, error) {
				assert.Equal(t, want, []any{policyName, after, limit})
				return []ports.Override{{Key: "a", Block: true, SetAt: setAt}, {Key: "192.0.2.7", Source: "ip", Exempt: true, SetAt: setAt}}, "CURSOR", nil
			},
			status: func() ports.OverridesStatus { return ports.OverridesStatus{Known: true, Local: true} },
		}))
		got := call(t, "GET", url+"/v1/overrides/search"+query, "")
		require.Equal(t, 200, got.status, got.body)
		assert.JSONEq(t, `{"overrides":[{"key":"a","block":true,"set_at":"2026-11-28T23:00:00Z"},
			{"key":"192.0.2.7","source":"ip","exempt":true,"set_at":"2026-11-28T23:00:00Z"}],"next":"CURSOR","local":true}`, got.body)
	}
	url := startAdminWith(t, admin.Config{}, admin.WithOverrides(fakeOverrides{
		list: func(string, string, int) ([]ports.Override, string, error) { return nil, "", nil },
	}))
	assert.JSONEq(t, `{"overrides":[]}`, call(t, "GET", url+"/v1/overrides/shared%2Ftenant", "").body)
	for _, limit := range []string{"0", "-1", "1001", "x", "", "1.5", "99999999999999999999"} {
		got := call(t, "GET", url+"/v1/overrides/search?limit="+limit, "")
		assert.Equal(t, 422, got.status, limit)
		assert.Equal(t, "limit: must be from 1 to 1000", got.problem(t)["detail"])
	}
}

// A status counts all overrides. That they are local never changes.
func TestOverrides_answersAskForOneStatus(t *testing.T) {
	statuses := 0
	url := startAdminWith(t, admin.Config{}, admin.WithOverrides(fakeOverrides{
		get: func(ports.ClientID) (ports.Override, error) { return ports.Override{Block: true}, nil },
		set: func(_ ports.ClientID, o ports.Override) (*ports.Override, ports.Override, error) { return nil, o, nil },
		list: func(string, string, int) ([]ports.Override, string, error) {
			return []ports.Override{{Key: "a", Block: true}}, "", nil
		},
		status: func() ports.OverridesStatus {
			statuses++
			return ports.OverridesStatus{Known: true, Local: true}
		},
	}))
	for _, request := range [][3]string{{"PUT", "search/a", `{"block":true}`}, {"GET", "search/a"}, {"GET", "search"}} {
		got := call(t, request[0], url+"/v1/overrides/"+request[1], request[2], "Content-Type", jsonType)
		require.Equal(t, 200, got.status, got.body)
		assert.Contains(t, got.body, `"local":true`)
		assert.Equal(t, 1, statuses, request)
	}
}

func TestOverrides_putRefusesWhatIsNoOverride(t *testing.T) {
	url := startAdminWith(t, admin.Config{}, admin.WithOverrides(fakeOverrides{}))
	put := func(path, body string, header ...string) answer {
		return call(t, "PUT", url+"/v1/overrides/"+path, body, header...)
	}
	for _, c := range []struct {
		status       int
		body, detail string
	}{
		{400, ``, "body: is not JSON: it ends too early"},
		{400, `{"exempt":true,"exempt":true}`, "exempt: is repeated"},
		{400, `{"limits":[{"name":"a","burst":5}]}`, "limits[0].burst: is not a known field"},
		{400, `{"exempt":true,"expires_at":"2027"}`, "expires_at: must be a time of RFC 3339, as in 2027-01-31T00:00:00Z"},
		{422, `{"exempt":true,"expires_at":"2020-01-31T00:00:00Z"}`, "expires_at: has passed"},
		{422, `{}`, "limits: there is none: an override has limits, or exempt, or block"},
	} {
		got := put("search/alice", c.body, "Content-Type", "application/json; charset=utf-8")
		assert.Equal(t, c.status, got.status, c.body)
		assert.Equal(t, c.detail, got.problem(t)["detail"])
	}
	assert.Equal(t, 415, put("search/alice", `{"exempt":true}`, "Content-Type", "text/plain").status)
	assert.Equal(t, 415, put("search/alice", `{"exempt":true}`).status)
	assert.Equal(t, 413, put("search/alice", `{"note":"`+strings.Repeat("n", 64<<10)+`"}`, "Content-Type", jsonType).status)
	const raw = "PUT /v1/overrides/search/a%zz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
	assert.Equal(t, 400, exchange(t, strings.TrimPrefix(url, "http://"), raw).status)
	assert.Equal(t, 422, put("search/a?source=header", `{"exempt":true}`, "Content-Type", jsonType).status)
}

func TestOverrides_errors(t *testing.T) {
	for _, c := range []struct {
		status             int
		err                error
		read, change, list string
	}{
		{404, ports.ErrNoOverride, "this client has no override", "this client has no override", "this client has no override"},
		{
			404, fmt.Errorf("%w: x", ports.ErrUnknownPolicy),
			"policy: there is no policy of this name", "policy: there is no policy of this name", "policy: there is no policy of this name",
		},
		{
			422, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "limits.burst", Reason: "is not a limit of search"},
			"limits.burst: is not a limit of search", "limits.burst: is not a limit of search", "limits.burst: is not a limit of search",
		},
		{
			503, fmt.Errorf("%w: 10.1.2.3", ports.ErrUnavailable),
			"the store does not answer; nothing was changed", "the store does not answer: send it again, it counts once",
			"the store does not answer; nothing was changed",
		},
		{
			507, ports.ErrOverridesFull, "", "there is no space for another override: end some that are no longer needed", "",
		},
	} {
		url := startAdminWith(t, admin.Config{}, admin.WithOverrides(fakeOverrides{
			get: func(ports.ClientID) (ports.Override, error) { return ports.Override{}, c.err },
			set: func(ports.ClientID, ports.Override) (*ports.Override, ports.Override, error) {
				return nil, ports.Override{}, c.err
			},
			end:  func(ports.ClientID) (ports.Override, error) { return ports.Override{}, c.err },
			list: func(string, string, int) ([]ports.Override, string, error) { return nil, "", c.err },
		})) + "/v1/overrides/search"
		for method, want := range map[string]string{"GET": c.read, "PUT": c.change, "DELETE": c.change, "list": c.list} {
			path, verb := url+"/alice", method
			if method == "list" {
				path, verb = url, "GET"
			}
			got := call(t, verb, path, `{"exempt":true}`, "Content-Type", jsonType)
			assert.Equal(t, c.status, got.status, method)
			if want != "" {
				assert.Equal(t, want, got.problem(t)["detail"], method)
			}
		}
	}
}

func TestOverrides_areGuardedAsResetsAre(t *testing.T) {
	url := startAdminWith(t, admin.Config{Token: "secret"}, admin.WithOverrides(fakeOverrides{
		set: func(_ ports.ClientID, o ports.Override) (*ports.Override, ports.Override, error) { return nil, o, nil },
	}))
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		assert.Equal(t, 401, call(t, method, url+"/v1/overrides/search/alice", `{"exempt":true}`, "Content-Type", jsonType).status, method)
	}
	assert.Equal(t, 401, call(t, "GET", url+"/v1/overrides/search", "").status)
	authorized := []string{"Content-Type", jsonType, "Authorization", "Bearer secret"}
	put := func(header ...string) int {
		return call(t, "PUT", url+"/v1/overrides/search/alice", `{"exempt":true}`, append(authorized, header...)...).status
	}
	assert.Equal(t, 200, put())
	assert.Equal(t, 403, put("Sec-Fetch-Site", "cross-site"))
	addr := strings.TrimPrefix(url, "http://")
	const raw = "PUT /v1/overrides/search/alice HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"
	assert.Equal(t, 403, exchange(t, addr, raw).status)
}

func TestReadyz_saysThatOverridesAreUnknown(t *testing.T) {
	up, down := ports.ShardHealth{Name: "shard-0"}, ports.ShardHealth{Name: "shard-0", Err: errors.New("down")}
	for _, c := range []struct {
		mode     policy.FailureMode
		shard    ports.ShardHealth
		known    bool
		draining bool
		status   int
		state    string
		detail   string
	}{
		{policy.FailOpen, up, false, false, 200, "ready", ""},
		{policy.FailOpen, down, false, false, 200, "degraded", ""},
		{policy.FailLocal, down, false, false, 200, "degraded", ""},
		{policy.FailClosed, up, true, false, 200, "ready", ""},
		{policy.FailClosed, up, false, false, 503, "unavailable", "the overrides of clients have not been read yet"},
		{policy.FailClosed, down, false, false, 503, "unavailable", "no shard answers"},
		{policy.FailClosed, down, true, false, 503, "unavailable", "no shard answers"},
		{policy.FailClosed, up, false, true, 503, "draining", "the service is stopping"},
	} {
		url := startAdminOf(t, admin.ServiceState{
			FailureMode: func() policy.FailureMode { return c.mode }, Draining: func() bool { return c.draining },
		}, shards{c.shard}, nil, admin.WithOverrides(fakeOverrides{
			status: func() ports.OverridesStatus { return ports.OverridesStatus{Known: c.known} },
		}))
		got := call(t, "GET", url+"/readyz", "")
		require.Equal(t, c.status, got.status, got.body)
		var body map[string]any
		require.NoError(t, json.Unmarshal([]byte(got.body), &body))
		assert.Equal(t, c.state, body["state"])
		if c.known {
			assert.NotContains(t, body, "overrides")
		} else {
			assert.Equal(t, "unknown", body["overrides"])
		}
		if c.status == http.StatusServiceUnavailable {
			assert.Contains(t, body["detail"], c.detail)
		}
	}
}

func TestStatus_describesTheOverrides(t *testing.T) {
	status := ports.OverridesStatus{Count: 7, Known: true, Behind: 1500 * time.Millisecond}
	overrides := admin.WithOverrides(fakeOverrides{status: func() ports.OverridesStatus { return status }})
	url := startAdminWith(t, admin.Config{}, overrides, admin.WithLivePage(live()))
	assert.Contains(t, call(t, "GET", url+"/v1/status", "").body, `"overrides":{"count":7,"known":true,"behind_ms":1500}`)
	status = ports.OverridesStatus{Count: 1, Known: true, Local: true}
	assert.Contains(t, call(t, "GET", url+"/v1/status", "").body, `"overrides":{"count":1,"known":true,"behind_ms":0,"local":true}`)
	without := startAdminWith(t, admin.Config{}, admin.WithLivePage(live()))
	assert.NotContains(t, call(t, "GET", without+"/v1/status", "").body, `"overrides"`)
}

func TestBuckets_inspectShowsTheOverride(t *testing.T) {
	for want, o := range map[string]*ports.Override{
		`"limits":[]}`: nil,
		`"override":{"limits":[{"name":"burst","cost":2}],"expires_at":"2127-01-31T00:00:00Z","note":"n","set_at":"2026-11-28T23:00:00Z"}}`: {
			Limits: []limitspec.Spec{{Name: "burst", Cost: 2}}, ExpiresAt: time.Date(2127, 1, 31, 0, 0, 0, 0, time.UTC), Note: "n", SetAt: setAt,
		},
	} {
		addr := startAdmin(t, admin.Config{}, fakeInspector{
			inspect: func(ports.ClientID) (ports.BucketReport, error) {
				return ports.BucketReport{Policy: "search", Source: "ip", Store: decision.StoreRedis, Override: o}, nil
			},
		}, shards(nil), admin.ServiceState{})
		assert.Contains(t, call(t, "GET", "http://"+addr+"/v1/buckets/search/192.0.2.7", "").body, want)
	}
}
