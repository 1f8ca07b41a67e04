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
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/simulate"
)

// noon is when every test's log begins.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// visit is one line of a test's log.
type visit struct {
	at     time.Duration // after noon
	client string        // the header of key x-client; "" for none
	path   string
	status int
}

// visits are a log in memory, which lends its memory as badly as a log may: each request is overwritten by the next.
type visits struct {
	list []visit
	lent ports.LoggedRequest
	n    int
}

func (v *visits) Next() (*ports.LoggedRequest, error) {
	if v.n == len(v.list) {
		return nil, io.EOF
	}
	now := v.list[v.n]
	v.n++
	v.lent = ports.LoggedRequest{
		Request: domain.Request{
			PolicyCost: true, Method: "GET", Path: now.path, Client: netip.MustParseAddr("192.0.2.1"),
			Lookup: func(domain.KeySource) (string, error) {
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

// set is a set of policies that match by their whole path.
type set []*domain.Policy

func (s set) Named(string) (*domain.Policy, error) { return nil, ports.ErrUnknownPolicy }

func (s set) Match(req *domain.Request) *domain.Policy {
	for _, p := range s {
		if p.Match.Path == req.Path {
			return p
		}
	}
	return nil
}

// policy for the path of its name: a burst of so many, one more each second, by the header X-Client.
func policy(t *testing.T, name string, capacity domain.Tokens, adjust ...func(*domain.Policy)) *domain.Policy {
	t.Helper()
	limit, err := domain.NewLimit("burst", capacity, 1, time.Second)
	require.NoError(t, err)
	p := &domain.Policy{
		Name: name, Match: domain.Match{Path: "/" + name}, Key: domain.Key{{Kind: domain.SourceHeader, Name: "x-client"}},
		Limits: []domain.Limit{limit}, OnStoreFailure: domain.FailOpen,
	}
	for _, a := range adjust {
		a(p)
	}
	require.NoError(t, p.Compile())
	return p
}

type silent struct{}

func (silent) Decided(*domain.Request, *domain.Decision)     {}
func (silent) StoreFailed(string, domain.FailureMode, error) {}

// replay runs sets of policies over a log, as the service would.
func replay(t *testing.T, log []visit, sets ...set) *simulate.Result {
	t.Helper()
	r := simulate.Replay{Log: &visits{list: log}, Clock: new(simulate.Clock), Top: 2}
	for _, policies := range sets {
		store, err := memstore.NewWithClock(memstore.DefaultConfig(), r.Clock.Now)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		r.Sides = append(r.Sides, simulate.Side{Limiter: app.NewRateLimiter(store, store, policies, silent{}), Policies: policies})
	}
	result, err := r.Run(t.Context())
	require.NoError(t, err)
	return result
}

// times is a visit so many times in the same instant.
func times(n int, v visit) []visit {
	all := make([]visit, n)
	for i := range all {
		all[i] = v
	}
	return all
}
