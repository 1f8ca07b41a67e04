package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// fakeInspector cannot inspect if inspect is nil.
type fakeInspector struct {
	inspect func(ports.ClientID) (ports.BucketReport, error)
	reset   func(ports.ClientID) error
	end     func(id ports.ClientID, permit string) (int, error)
}

func (f fakeInspector) Inspect(_ context.Context, id ports.ClientID) (ports.BucketReport, error) {
	if f.inspect == nil {
		return ports.BucketReport{}, ports.ErrUnavailable
	}
	return f.inspect(id)
}

func (f fakeInspector) Reset(_ context.Context, id ports.ClientID) error { return f.reset(id) }

func (f fakeInspector) EndPermits(_ context.Context, id ports.ClientID, permit string) (int, error) {
	return f.end(id, permit)
}

type shards []ports.ShardHealth

func (s shards) CheckHealth(context.Context) []ports.ShardHealth { return s }

func startAdmin(
	t *testing.T, cfg admin.Config, inspector ports.Inspector, health ports.HealthChecker,
	state admin.ServiceState,
) string {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	a, err := admin.New(cfg, inspector, health, state, zap.NewNop())
	require.NoError(t, err)
	ln, err := a.Listen()
	require.NoError(t, err)
	serve(t, a, ln)
	return ln.Addr().String()
}

func TestReadyz(t *testing.T) {
	up, down := ports.ShardHealth{Name: "shard-0"}, ports.ShardHealth{Name: "shard-1", Err: errors.New("10.1.2.3 refused")}
	for name, c := range map[string]struct {
		shards   shards
		mode     policy.FailureMode
		draining bool
		status   int
		state    string
	}{
		"memory":                 {nil, policy.FailClosed, false, 200, "ready"},
		"all up":                 {shards{up}, policy.FailClosed, false, 200, "ready"},
		"some down, closed":      {shards{up, down}, policy.FailClosed, false, 200, "degraded"},
		"all down, closed":       {shards{down}, policy.FailClosed, false, 503, "unavailable"},
		"all down, open":         {shards{down}, policy.FailOpen, false, 200, "degraded"},
		"all down, local":        {shards{down}, policy.FailLocal, false, 200, "degraded"},
		"draining":               {shards{up}, policy.FailOpen, true, 503, "draining"},
		"draining with all down": {shards{down}, policy.FailClosed, true, 503, "draining"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := startAdmin(t, admin.Config{Token: "secret"}, nil, c.shards, admin.ServiceState{
				FailureMode: func() policy.FailureMode { return c.mode },
				Draining:    func() bool { return c.draining },
			})
			got := call(t, "GET", "http://"+addr+"/readyz", "")
			assert.Equal(t, c.status, got.status)
			assert.NotContains(t, got.body, "10.1.2.3")
			var body struct {
				State  string
				Shards []struct{ Name, State string }
			}
			require.NoError(t, json.Unmarshal([]byte(got.body), &body), got.body)
			assert.Equal(t, c.state, body.State)
			require.Len(t, body.Shards, len(c.shards))
			for i, s := range c.shards {
				assert.Equal(t, s.Name, body.Shards[i].Name)
				assert.Equal(t, map[bool]string{true: "up", false: "down"}[s.Err == nil], body.Shards[i].State)
			}
			if c.status == 503 {
				got.problem(t)
			}
		})
	}
}

func TestReadyz_waitsForTheKeysOfTokensAtTheStart(t *testing.T) {
	up, down := ports.ShardHealth{Name: "shard-0"}, ports.ShardHealth{Name: "shard-0", Err: errors.New("down")}
	for name, c := range map[string]struct {
		shards           shards
		loaded, starting bool
		status           int
		state, keys      string
	}{
		"loaded":                 {shards{up}, true, false, 200, "ready", ""},
		"not yet":                {shards{up}, false, true, 503, "starting", ""},
		"not yet, in memory":     {nil, false, true, 503, "starting", ""},
		"not for long":           {shards{up}, false, false, 200, "degraded", "missing"},
		"not yet, no shard":      {shards{down}, false, true, 503, "starting", ""},
		"not for long, no shard": {shards{down}, false, false, 200, "degraded", "missing"},
	} {
		addr := startAdmin(t, admin.Config{}, nil, c.shards, admin.ServiceState{TokenKeys: func() (bool, bool) { return c.loaded, c.starting }})
		got := call(t, "GET", "http://"+addr+"/readyz", "")
		assert.Equal(t, c.status, got.status, name)
		var body struct {
			State string
			Keys  string `json:"token_keys"`
		}
		require.NoError(t, json.Unmarshal([]byte(got.body), &body), got.body)
		assert.Equal(t, c.state, body.State, name)
		assert.Equal(t, c.keys, body.Keys, name)
	}
}

func TestHealthz_isAliveWhateverTheStore(t *testing.T) {
	addr := startAdmin(t, admin.Config{Token: "secret"}, nil,
		shards{{Name: "shard-0", Err: errors.New("down")}}, admin.ServiceState{})
	got := call(t, "GET", "http://"+addr+"/healthz", "")
	assert.Equal(t, 200, got.status)
	assert.JSONEq(t, `{"state":"alive"}`, got.body)
	assert.Equal(t, 405, call(t, "POST", "http://"+addr+"/healthz", "").status)
}

func TestBuckets_inspectDecodesCredits(t *testing.T) {
	third, err := domain.NewBucket("burst", 10, 3, 7*time.Second) // p = 7,000,000
	require.NoError(t, err)
	p := third.TokenBucket().TokenCredits()
	now := domain.InstantOf(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
	for tokens, credits := range map[string]domain.Credits{
		"10": 10 * p, "0": 0, "2.5": 2*p + p/2, "2.333333": 2*p + p/3, "-2.5": -2*p - p/2, "-2.333334": -2*p - p/3 - 1,
		"0.000001": 8, "-1": -p + 1,
	} {
		var asked ports.ClientID
		addr := startAdmin(t, admin.Config{}, fakeInspector{
			inspect: func(id ports.ClientID) (ports.BucketReport, error) {
				asked = id
				return ports.BucketReport{
					Policy: "search", Source: "header:x-client-id", Store: decision.StoreMemory, Now: now,
					Limits: []ports.LimitLevel{{Limit: third, State: domain.State{Amount: credits, At: now, TokenCredits: p}}},
				}, nil
			},
		}, shards(nil), admin.ServiceState{})
		got := call(t, "GET", "http://"+addr+"/v1/buckets/search/alice", "")
		require.Equal(t, 200, got.status, got.body)
		assert.Equal(t, ports.ClientID{Policy: "search", Key: "alice"}, asked)
		full := third.FullAt(domain.State{Amount: credits, At: now, TokenCredits: p}).Time().Format(time.RFC3339Nano)
		assert.JSONEq(t, fmt.Sprintf(`{"policy":"search","source":"header:x-client-id","key":"alice","store":"memory",
			"now":"2030-01-02T03:04:05Z","limits":[{"name":"burst","kind":"bucket","rate":"3/7s","capacity":10,"limit":10,
			"tokens":%s,"updated_at":"2030-01-02T03:04:05Z","full_at":"%s","expires_at":"%s"}]}`, tokens, full, full), got.body)
		assert.Contains(t, got.body, `"tokens":`+tokens+`,`)
	}
}

func TestBuckets_inspectShowsTheQuotasOfThisPeriod(t *testing.T) {
	daily := quotaOf(t, "daily", 1000, "day", "Europe/Berlin", "")
	now := domain.InstantOf(time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC))
	for used, updated := range map[domain.Credits]string{0: "2026-03-29T12:00:00Z", 1500: "2026-03-29T11:59:59.999999Z"} {
		state := domain.State{Amount: used, At: now, TokenCredits: 1}
		if used > 0 {
			state.At--
		}
		addr := startAdmin(t, admin.Config{}, fakeInspector{
			inspect: func(ports.ClientID) (ports.BucketReport, error) {
				return ports.BucketReport{
					Policy: "search", Source: "ip", Store: decision.StoreRedis, Now: now, Limits: []ports.LimitLevel{{Limit: daily, State: state}},
				}, nil
			},
		}, shards(nil), admin.ServiceState{})
		assert.JSONEq(t, fmt.Sprintf(`{"policy":"search","source":"ip","key":"192.0.2.7","store":"redis","now":"2026-03-29T12:00:00Z",
			"limits":[{"name":"daily","kind":"quota","rate":"1000/day in Europe/Berlin","limit":1000,"used":%d,
			"period_start":"2026-03-28T23:00:00Z","period_end":"2026-03-29T22:00:00Z","updated_at":"%s"}]}`, used, updated),
			call(t, "GET", "http://"+addr+"/v1/buckets/search/192.0.2.7", "").body)
	}
}

func TestBuckets_keysInThePathAreDecoded(t *testing.T) {
	for path, c := range map[string]struct {
		status int
		want   ports.ClientID
	}{
		"/v1/buckets/search/alice":                 {204, ports.ClientID{Policy: "search", Key: "alice"}},
		"/v1/buckets/search/a%2Fb%20c%25":          {204, ports.ClientID{Policy: "search", Key: "a/b c%"}},
		"/v1/buckets/search/2001:db8::%2F64?x=1":   {204, ports.ClientID{Policy: "search", Key: "2001:db8::/64"}},
		"/v1/buckets/search/%C3%A9%00%0A":          {204, ports.ClientID{Policy: "search", Key: "é\x00\n"}},
		"/v1/buckets/search/a+b":                   {204, ports.ClientID{Policy: "search", Key: "a+b"}},
		"/v1/buckets/search/%2e%2e":                {204, ports.ClientID{Policy: "search", Key: ".."}},
		"/v1/buckets/search/203.0.113.7?source=ip": {204, ports.ClientID{Policy: "search", Key: "203.0.113.7", Source: "ip"}},
		"/v1/buckets/search/alice?source=header:x": {204, ports.ClientID{Policy: "search", Key: "alice", Source: "header:x"}},
		"/v1/buckets/search/alice?source=header":   {422, ports.ClientID{}},
		"/v1/buckets/search/a%zz":                  {400, ports.ClientID{}},
		"/v1/buckets/search/a/b":                   {404, ports.ClientID{}},
		"/v1/buckets/search/":                      {404, ports.ClientID{}},
		"/v1/buckets/search":                       {404, ports.ClientID{}},
	} {
		var asked ports.ClientID
		addr := startAdmin(t, admin.Config{}, fakeInspector{
			reset: func(id ports.ClientID) error {
				asked = id
				return nil
			},
		}, shards(nil), admin.ServiceState{})
		got := exchange(t, addr, "DELETE "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
		assert.Equal(t, c.status, got.status, path)
		assert.Equal(t, c.want, asked, path)
		if c.status >= 400 {
			got.problem(t)
		}
	}
}

func TestBuckets_errors(t *testing.T) {
	for status, err := range map[int]error{
		404: fmt.Errorf("%w: 10.1.2.3", ports.ErrUnknownPolicy),
		503: fmt.Errorf("%w: 10.1.2.3", ports.ErrUnavailable),
		422: &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must not be empty"},
	} {
		addr := startAdmin(t, admin.Config{}, fakeInspector{
			inspect: func(ports.ClientID) (ports.BucketReport, error) { return ports.BucketReport{}, err },
			reset:   func(ports.ClientID) error { return err },
		}, shards(nil), admin.ServiceState{})
		for _, method := range []string{"GET", "DELETE"} {
			got := call(t, method, "http://"+addr+"/v1/buckets/default/alice", "")
			assert.Equal(t, status, got.status)
			assert.NotContains(t, got.body, "10.1.2.3")
			got.problem(t)
		}
	}
}

// A look changes nothing, whatever happens to it. A reset whose answer is lost may have been carried out.
func TestBuckets_errorsOfTheStoreSayWhatMayHaveHappened(t *testing.T) {
	for _, c := range []struct {
		method, want string
		err          error
	}{
		{"GET", "the store does not answer; nothing was changed", ports.ErrUnavailable},
		{"DELETE", "may or may not have been carried out", ports.ErrUnavailable},
		{"GET", "cannot be read; a reset replaces it", ports.ErrCorrupt},
	} {
		addr := startAdmin(t, admin.Config{}, fakeInspector{
			inspect: func(ports.ClientID) (ports.BucketReport, error) { return ports.BucketReport{}, c.err },
			reset:   func(ports.ClientID) error { return c.err },
		}, shards(nil), admin.ServiceState{})
		got := call(t, c.method, "http://"+addr+"/v1/buckets/default/alice", "")
		assert.Equal(t, 503, got.status)
		assert.Contains(t, got.problem(t)["detail"], c.want)
	}
}

func TestAdmin_tokenGuardsBuckets(t *testing.T) {
	calls := 0
	addr := startAdmin(t, admin.Config{Token: "s3cret"}, fakeInspector{
		reset: func(ports.ClientID) error {
			calls++
			return nil
		},
		end: func(ports.ClientID, string) (int, error) {
			calls++
			return 1, nil
		},
	}, shards(nil), admin.ServiceState{})
	url := "http://" + addr + "/v1/buckets/default/alice"
	permits := "http://" + addr + "/v1/permits/default/alice"
	assert.Equal(t, 401, call(t, "DELETE", permits, "").status)
	assert.Equal(t, 401, call(t, "DELETE", permits+"/p", "").status)
	assert.Equal(t, 401, call(t, "DELETE", url, "").status)
	assert.Equal(t, 401, call(t, "DELETE", url, "", "Authorization", "Bearer other").status)
	assert.Equal(t, 401, call(t, "GET", url, "").status)
	assert.Zero(t, calls)
	assert.Equal(t, 204, call(t, "DELETE", url, "", "Authorization", "Bearer s3cret").status)
	assert.Equal(t, 1, calls)
}

// The key of a client may be a secret, and is in the path.
func TestAdmin_problemsDoNotShowTheClient(t *testing.T) {
	addr := startAdmin(t, admin.Config{Token: "s3cret"}, fakeInspector{}, shards(nil), admin.ServiceState{})
	const authorized, large = "Authorization: Bearer s3cret\r\n", "Content-Length: 1000000\r\nExpect: 100-continue\r\n"
	for request, want := range map[string]struct {
		status   int
		instance string
	}{
		"GET /v1/buckets/default/alice HTTP/1.1\r\n":                               {401, "/v1/buckets"},
		"GET /v1/buckets/default/alice HTTP/1.1\r\n" + authorized:                  {503, "/v1/buckets"},
		"GET /v1/buckets/default/ali%zzce HTTP/1.1\r\n" + authorized:               {400, "/v1/buckets"},
		"GET /v1/buckets/default/alice HTTP/1.1\r\nBad Name: x\r\n":                {400, "/v1/buckets"},
		"PUT /v1/overrides/default/alice HTTP/1.1\r\n" + authorized + large:        {413, "/v1/overrides"},
		"PUT /v1/overrides/default/alice HTTP/1.1\r\nContent-Length: 1000000\r\n":  {413, "/v1/overrides"},
		"DELETE /v1/permits/default/alice/id/more HTTP/1.1\r\n" + authorized:       {404, "/v1/permits"},
		"GET /v1/buckets/default/alice?source=alice HTTP/1.1\r\n" + authorized:     {422, "/v1/buckets"},
		"GET http://localhost//v1/buckets/default/alice HTTP/1.1\r\n" + authorized: {404, "/v1"},
		"GET /nothing HTTP/1.1\r\n":                                                {404, "/nothing"},
	} {
		got := exchange(t, addr, request+"Host: localhost\r\n\r\n")
		assert.Equal(t, want.status, got.status, request)
		assert.Equal(t, want.instance, got.problem(t)["instance"], request)
		assert.NotContains(t, got.body, "alice", request)
	}
}

func TestAdmin_unknownHostsAreRefused(t *testing.T) {
	addr := startAdmin(t, admin.Config{Hosts: []string{" Velocity.internal "}}, nil, shards(nil), admin.ServiceState{})
	for host, status := range map[string]int{
		"localhost": 200, "localhost:3001": 200, "LOCALHOST.": 200, "127.0.0.1:3001": 200, "10.2.3.4": 200,
		"[::1]:3001": 200, "[::1]": 200, "velocity.internal:80": 200, "VELOCITY.internal": 200,
		"evil.example": 403, "evil.example:3001": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403,
		"notlocalhost": 403,
	} {
		got := exchange(t, addr, "GET /healthz HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		assert.Equal(t, status, got.status, host)
		if status == 403 {
			assert.Contains(t, got.problem(t)["detail"], "VELOCITY_ADMIN_HOSTS")
		}
	}
}

func TestAdmin_pagesOfAnotherOriginChangeNothing(t *testing.T) {
	var resets, ended int
	inspector := fakeInspector{
		reset: func(ports.ClientID) error { resets++; return nil },
		end:   func(ports.ClientID, string) (int, error) { ended++; return 1, nil },
	}
	addr := startAdmin(t, admin.Config{}, inspector, shards{}, admin.ServiceState{})
	for site, status := range map[string]int{
		"": 204, "none": 204, "same-origin": 204, "same-site": 403, "cross-site": 403,
	} {
		var header []string
		if site != "" {
			header = []string{"Sec-Fetch-Site", site}
		}
		assert.Equal(t, status, call(t, "DELETE", "http://"+addr+"/v1/buckets/default/alice", "", header...).status, site)
		assert.Equal(t, status != 204, call(t, "DELETE", "http://"+addr+"/v1/permits/default/alice", "", header...).status == 403, site)
	}
	assert.Equal(t, []int{3, 3}, []int{resets, ended})
}
