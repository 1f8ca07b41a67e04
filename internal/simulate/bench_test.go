package simulate_test

import (
	"io"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/simulate"
)

// manyClients is a log of requests by several clients in turn, a hundred a second.
type manyClients struct {
	requests, clients, n int
	lent                 ports.LoggedRequest
}

func (c *manyClients) Next() (*ports.LoggedRequest, error) {
	if c.n == c.requests {
		return nil, io.EOF
	}
	client := c.n % c.clients
	c.lent.Request = policy.Request{
		PolicyCost: true, Method: "GET", Path: "/a",
		Client: netip.AddrFrom4([4]byte{10, byte(client >> 16), byte(client >> 8), byte(client)}),
	}
	c.lent.At = domain.Instant(c.n) * 10_000
	c.n++
	return &c.lent, nil
}

// BenchmarkReplay measures a request without the reading of its line.
func BenchmarkReplay(b *testing.B) {
	p := &policy.Policy{Name: "a", OnStoreFailure: policy.FailOpen}
	limit, err := domain.NewBucket("burst", 10, 1, 1e9)
	require.NoError(b, err)
	p.Limits, p.Match.Path = []domain.Limit{limit}, "/a"
	require.NoError(b, p.Compile())
	r := simulate.Replay{Log: &manyClients{requests: b.N, clients: 10_000}, Clock: new(simulate.Clock), Top: 10}
	store, err := memstore.NewWithClock(memstore.DefaultConfig(), r.Clock.Now)
	require.NoError(b, err)
	defer func() { require.NoError(b, store.Close()) }()
	r.Sides = []simulate.Side{{Limiter: app.NewRateLimiter(store, store, set{p}, silent{}), Policies: set{p}}}
	b.ReportAllocs()
	b.ResetTimer()
	_, err = r.Run(b.Context())
	require.NoError(b, err)
}
