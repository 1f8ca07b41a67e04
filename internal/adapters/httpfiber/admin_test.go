package httpfiber_test

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

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

type fakeInspector struct {
	inspect func(ports.ClientID) (ports.BucketReport, error)
	reset   func(ports.ClientID) error
}

func (f fakeInspector) Inspect(_ context.Context, id ports.ClientID) (ports.BucketReport, error) {
	return f.inspect(id)
}

func (f fakeInspector) Reset(_ context.Context, id ports.ClientID) error { return f.reset(id) }

type shards []ports.ShardHealth

func (s shards) CheckHealth(context.Context) []ports.ShardHealth { return s }

func startAdmin(
	t *testing.T, cfg httpfiber.AdminConfig, inspector ports.Inspector, health ports.HealthChecker,
	state httpfiber.ServiceState,
) string {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	a, err := httpfiber.NewAdmin(cfg, inspector, health, state, zap.NewNop())
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
		mode     domain.FailureMode
		draining bool
		status   int
		state    string
	}{
		"memory":                 {nil, domain.FailClosed, false, 200, "ready"},
		"all up":                 {shards{up}, domain.FailClosed, false, 200, "ready"},
		"some down, closed":      {shards{up, down}, domain.FailClosed, false, 200, "degraded"},
		"all down, closed":       {shards{down}, domain.FailClosed, false, 503, "unavailable"},
		"all down, open":         {shards{down}, domain.FailOpen, false, 200, "degraded"},
		"all down, local":        {shards{down}, domain.FailLocal, false, 200, "degraded"},
		"draining":               {shards{up}, domain.FailOpen, true, 503, "draining"},
		"draining with all down": {shards{down}, domain.FailClosed, true, 503, "draining"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := startAdmin(t, httpfiber.AdminConfig{Token: "secret"}, nil, c.shards, httpfiber.ServiceState{
				FailureMode: func() domain.FailureMode { return c.mode },
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

func TestHealthz_isAliveWhateverTheStore(t *testing.T) {
	addr := startAdmin(t, httpfiber.AdminConfig{Token: "secret"}, nil,
		shards{{Name: "shard-0", Err: errors.New("down")}}, httpfiber.ServiceState{})
	got := call(t, "GET", "http://"+addr+"/healthz", "")
	assert.Equal(t, 200, got.status)
	assert.JSONEq(t, `{"state":"alive"}`, got.body)
	assert.Equal(t, 405, call(t, "POST", "http://"+addr+"/healthz", "").status)
}

func TestBuckets_inspectDecodesCredits(t *testing.T) {
	third, err := domain.NewLimit("burst", 10, 3, 7*time.Second) // p = 7,000,000
	require.NoError(t, err)
	p := third.TokenCredits()
	now := domain.InstantOf(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
	for tokens, credits := range map[string]domain.Credits{
		"10": 10 * p, "0": 0, "2.5": 2*p + p/2, "2.333333": 2*p + p/3, "-2.5": -2*p - p/2, "-2.333334": -2*p - p/3 - 1,
		"0.000001": 8, "-1": -p + 1,
	} {
		var asked ports.ClientID
		addr := startAdmin(t, httpfiber.AdminConfig{}, fakeInspector{
			inspect: func(id ports.ClientID) (ports.BucketReport, error) {
				asked = id
				return ports.BucketReport{
					Policy: "search", Source: "header:x-client-id", Store: domain.StoreMemory, Now: now,
					Limits: []ports.BucketLevel{{Limit: third, Bucket: domain.Bucket{Credits: credits, At: now, TokenCredits: p}}},
				}, nil
			},
		}, shards(nil), httpfiber.ServiceState{})
		got := call(t, "GET", "http://"+addr+"/v1/buckets/search/alice", "")
		require.Equal(t, 200, got.status, got.body)
		assert.Equal(t, ports.ClientID{Policy: "search", Key: "alice"}, asked)
		full := third.FullAt(domain.Bucket{Credits: credits, At: now, TokenCredits: p}).Time().Format(time.RFC3339Nano)
		assert.JSONEq(t, fmt.Sprintf(`{"policy":"search","source":"header:x-client-id","key":"alice","store":"memory",
			"now":"2030-01-02T03:04:05Z","limits":[{"name":"burst","rate":"3/7s","limit":10,"tokens":%s,
			"updated_at":"2030-01-02T03:04:05Z","expires_at":"%s"}]}`, tokens, full), got.body)
		assert.Contains(t, got.body, `"tokens":`+tokens+`,`)
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
		addr := startAdmin(t, httpfiber.AdminConfig{}, fakeInspector{
			reset: func(id ports.ClientID) error {
				asked = id
				return nil
			},
		}, shards(nil), httpfiber.ServiceState{})
		got := exchange(t, addr, "DELETE "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n", 1)[0]
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
		addr := startAdmin(t, httpfiber.AdminConfig{}, fakeInspector{
			inspect: func(ports.ClientID) (ports.BucketReport, error) { return ports.BucketReport{}, err },
			reset:   func(ports.ClientID) error { return err },
		}, shards(nil), httpfiber.ServiceState{})
		for _, method := range []string{"GET", "DELETE"} {
			got := call(t, method, "http://"+addr+"/v1/buckets/default/alice", "")
			assert.Equal(t, status, got.status)
			assert.NotContains(t, got.body, "10.1.2.3")
			got.problem(t)
		}
	}
}

func TestAdmin_tokenGuardsBuckets(t *testing.T) {
	calls := 0
	addr := startAdmin(t, httpfiber.AdminConfig{Token: "s3cret"}, fakeInspector{
		reset: func(ports.ClientID) error {
			calls++
			return nil
		},
	}, shards(nil), httpfiber.ServiceState{})
	url := "http://" + addr + "/v1/buckets/default/alice"
	assert.Equal(t, 401, call(t, "DELETE", url, "").status)
	assert.Equal(t, 401, call(t, "DELETE", url, "", "Authorization", "Bearer other").status)
	assert.Equal(t, 401, call(t, "GET", url, "").status)
	assert.Zero(t, calls)
	assert.Equal(t, 204, call(t, "DELETE", url, "", "Authorization", "Bearer s3cret").status)
	assert.Equal(t, 1, calls)
}

func TestAdmin_hostsThatAreNotOursAreRefused(t *testing.T) {
	addr := startAdmin(t, httpfiber.AdminConfig{Hosts: []string{" Velocity.internal "}}, nil, shards(nil), httpfiber.ServiceState{})
	for host, status := range map[string]int{
		"localhost": 200, "localhost:3001": 200, "LOCALHOST.": 200, "127.0.0.1:3001": 200, "10.2.3.4": 200,
		"[::1]:3001": 200, "[::1]": 200, "velocity.internal:80": 200, "VELOCITY.internal": 200,
		"evil.example": 403, "evil.example:3001": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403,
		"notlocalhost": 403,
	} {
		got := exchange(t, addr, "GET /healthz HTTP/1.1\r\nHost: "+host+"\r\n\r\n", 1)[0]
		assert.Equal(t, status, got.status, host)
		if status == 403 {
			assert.Contains(t, got.problem(t)["detail"], "VELOCITY_ADMIN_HOSTS")
		}
	}
}

func TestAdmin_pagesOfAnotherOriginChangeNothing(t *testing.T) {
	var resets int
	inspector := fakeInspector{reset: func(ports.ClientID) error { resets++; return nil }}
	addr := startAdmin(t, httpfiber.AdminConfig{}, inspector, shards{}, httpfiber.ServiceState{})
	for site, status := range map[string]int{
		"": 204, "none": 204, "same-origin": 204, "same-site": 403, "cross-site": 403,
	} {
		var header []string
		if site != "" {
			header = []string{"Sec-Fetch-Site", site}
		}
		assert.Equal(t, status, call(t, "DELETE", "http://"+addr+"/v1/buckets/default/alice", "", header...).status, site)
	}
	assert.Equal(t, 3, resets)
}
