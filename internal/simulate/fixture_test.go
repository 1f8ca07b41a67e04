package simulate_test

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/simulate"
)

// noon is the time at which the log of every test begins.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// logLine is one line of a test's log.
type logLine struct {
	at     time.Duration // after noon
	client string        // the header of key x-client; "" for none
	path   string
	status int
}

// memoryLog is a log in memory that reuses its memory as far as a log may: each request overwrites the one before.
type memoryLog struct {
	list []logLine
	lent ports.LoggedRequest
	n    int
}

func (v *memoryLog) Next() (*ports.LoggedRequest, error) {
	if v.n == len(v.list) {
		return nil, io.EOF
	}
	now := v.list[v.n]
	v.n++
	v.lent = ports.LoggedRequest{
		Request: policy.Request{
			PolicyCost: true, Method: "GET", Path: now.path, Client: netip.MustParseAddr("192.0.2.1"),
			Lookup: func(clientkey.Source) (string, error) {
				if now.client == "twice" {
					return "", domain.ErrInvalidRequest
				}
				return now.client, nil
			},
		},
		At: domain.InstantOf(noon.Add(now.at)), Status: now.status, Log: "log", Line: v.n,
	}
	return &v.lent, nil
}

// set is a set of policies that match a whole path.
type set []*policy.Policy

func (s set) Named(name string) (*policy.Policy, error) {
	for _, p := range s {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, ports.ErrUnknownPolicy
}

func (s set) Shared(string) (*policy.Shared, error) { return nil, ports.ErrUnknownPolicy }

func (s set) Match(req *policy.Request) (*policy.Policy, error) {
	for _, p := range s {
		if p.Match.Path == req.Path {
			return p, nil
		}
	}
	return nil, nil
}

// policy returns a policy for the path of its name: this capacity, one token a second, by the header X-Client.
func newPolicy(t *testing.T, name string, capacity domain.Tokens, adjust ...func(*policy.Policy)) *policy.Policy {
	t.Helper()
	limit, err := domain.NewBucket("burst", capacity, 1, time.Second)
	require.NoError(t, err)
	p := &policy.Policy{
		Name: name, Match: policy.Match{Path: "/" + name}, Key: clientkey.Key{{Kind: clientkey.SourceHeader, Name: "x-client"}},
		Limits: []domain.Limit{limit}, OnStoreFailure: policy.FailOpen,
	}
	for _, a := range adjust {
		a(p)
	}
	require.NoError(t, p.Compile())
	return p
}

type silent struct{}

func (silent) Decided(*policy.Request, *decision.Decision)   {}
func (silent) StoreFailed(string, policy.FailureMode, error) {}

// replay replays a log through sets of policies.
func replay(t *testing.T, log []logLine, sets ...set) *simulate.Result {
	t.Helper()
	r := simulate.Replay{Log: &memoryLog{list: log}, Clock: new(simulate.Clock), Top: 2}
	for _, policies := range sets {
		store, err := memstore.NewWithClock(memstore.DefaultConfig(), r.Clock.Now)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		limiter := app.NewRateLimiter(store, store, policies, silent{})
		r.Sides = append(r.Sides, simulate.Side{Limiter: limiter, Permits: limiter, Policies: policies})
	}
	result, err := r.Run(t.Context())
	require.NoError(t, err)
	return result
}

// times repeats a line n times at the same instant.
func times(n int, v logLine) []logLine {
	all := make([]logLine, n)
	for i := range all {
		all[i] = v
	}
	return all
}
