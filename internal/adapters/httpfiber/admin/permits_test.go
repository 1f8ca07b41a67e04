package admin_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestBuckets_inspectShowsThePermits(t *testing.T) {
	limit, err := domain.NewConcurrency("parallel", 500, time.Minute)
	require.NoError(t, err)
	now := domain.InstantOf(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
	for want, level := range map[string]ports.LimitLevel{
		`{"limit":500,"held_total":0,"held":[]}`: {State: domain.State{At: now, TokenCredits: 1}},
		`{"limit":500,"held_total":107,"held":[
			{"id":"abc.5.1893553443000000","since":"2030-01-02T03:04:03Z","expires_at":"2030-01-02T03:04:06Z","cost":5},
			{"id":"other","expires_at":"2030-01-02T03:04:07Z"},
			{"id":"abc.5.1893553448000001","expires_at":"2030-01-02T03:04:08Z"},
			{"id":"abc.0.1893553443000000","expires_at":"2030-01-02T03:04:09Z"},
			{"id":"abc.5.-1","expires_at":"2030-01-02T03:04:10Z"}]}`: {
			State: domain.State{Amount: 107, At: now + 1_000_000, TokenCredits: 1},
			Permits: []domain.Permit{
				{ID: domain.NewPermitID("abc", 5, now-2_000_000), Expires: now + 1_000_000},
				{ID: "other", Expires: now + 2_000_000},
				{ID: domain.NewPermitID("abc", 5, now+3_000_001), Expires: now + 3_000_000}, // a clock that is ahead
				{ID: domain.NewPermitID("abc", 0, now-2_000_000), Expires: now + 4_000_000},
				{ID: domain.NewPermitID("abc", 5, -1), Expires: now + 5_000_000},
			},
		},
	} {
		level.Limit = limit
		addr := startAdmin(t, admin.Config{}, fakeInspector{
			inspect: func(ports.ClientID) (ports.BucketReport, error) {
				return ports.BucketReport{
					Policy: "search", Source: "ip", Store: decision.StoreRedis, Now: now, Limits: []ports.LimitLevel{level},
				}, nil
			},
		}, shards(nil), admin.ServiceState{})
		got := call(t, "GET", "http://"+addr+"/v1/buckets/search/192.0.2.7", "")
		assert.JSONEq(t, `{"policy":"search","source":"ip","key":"192.0.2.7","store":"redis","now":"2030-01-02T03:04:05Z",
			"limits":[{"name":"parallel","kind":"concurrency",`+want[1:]+`]}`, got.body)
	}
}

func TestPermits_deleteEndsOneOrAll(t *testing.T) {
	type asked struct {
		id     ports.ClientID
		permit string
	}
	for path, c := range map[string]struct {
		status int
		want   asked
	}{
		"/v1/permits/search/alice":                        {200, asked{ports.ClientID{Policy: "search", Key: "alice"}, ""}},
		"/v1/permits/search/alice/abc.5.17":               {200, asked{ports.ClientID{Policy: "search", Key: "alice"}, "abc.5.17"}},
		"/v1/permits/shared%2Ftenant/a%2Fb/p%20q?source=": {200, asked{ports.ClientID{Policy: "shared/tenant", Key: "a/b"}, "p q"}},
		"/v1/permits/search/::1/p?source=ip":              {200, asked{ports.ClientID{Policy: "search", Key: "::1", Source: "ip"}, "p"}},
		"/v1/permits/search/::1?source=ip":                {200, asked{ports.ClientID{Policy: "search", Key: "::1", Source: "ip"}, ""}},
		"/v1/permits/search/alice?source=header":          {422, asked{}},
		"/v1/permits/search/alice/%zz":                    {400, asked{}},
		// A program whose ID is empty by mistake must not end all of them.
		"/v1/permits/search/alice/":     {404, asked{}},
		"/v1/permits/search/alice//":    {404, asked{}},
		"/v1/permits/search/alice/p/q":  {404, asked{}},
		"/v1/permits/search/":           {404, asked{}},
		"/v1/permits/search/alice/%20/": {404, asked{}},
	} {
		var got asked
		addr := startAdmin(t, admin.Config{}, fakeInspector{
			end: func(id ports.ClientID, permit string) (int, error) {
				got = asked{id, permit}
				return 3, nil
			},
		}, shards(nil), admin.ServiceState{})
		a := exchange(t, addr, "DELETE "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
		assert.Equal(t, c.status, a.status, path)
		assert.Equal(t, c.want, got, path)
		if c.status == 200 {
			assert.JSONEq(t, `{"ended":3}`, a.body)
		} else {
			a.problem(t)
		}
	}
}

func TestPermits_errors(t *testing.T) {
	for want, c := range map[string]struct {
		status int
		err    error
	}{
		"policy: there is no policy of this name":                   {404, fmt.Errorf("%w: 10.1.2.3", ports.ErrUnknownPolicy)},
		"the store does not answer: send it again, it counts once":  {503, fmt.Errorf("%w: 10.1.2.3", ports.ErrUnavailable)},
		"id: must be the ID of a permit, as an inspection shows it": {422, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "id", Reason: "must be the ID of a permit, as an inspection shows it"}},
	} {
		addr := startAdmin(t, admin.Config{}, fakeInspector{
			end: func(ports.ClientID, string) (int, error) { return 1, c.err },
		}, shards(nil), admin.ServiceState{})
		got := call(t, "DELETE", "http://"+addr+"/v1/permits/default/alice/p", "")
		assert.Equal(t, c.status, got.status)
		assert.Equal(t, want, got.problem(t)["detail"])
	}
}
