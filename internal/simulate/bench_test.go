package simulate_test

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

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

// manyClientsReplay replays such a log through one limit of 10 tokens, a token in each period of refilling.
func manyClientsReplay(b *testing.B, log *manyClients, per time.Duration) *simulate.Replay {
	b.Helper()
	p := &policy.Policy{Name: "a", OnStoreFailure: policy.FailOpen}
	limit, err := domain.NewBucket("burst", 10, 1, per)
	require.NoError(b, err)
	p.Limits, p.Match.Path = []domain.Limit{limit}, "/a"
	require.NoError(b, p.Compile())
	r := &simulate.Replay{Log: log, Clock: new(simulate.Clock), Top: 10}
	store, err := memstore.NewWithClock(memstore.DefaultConfig(), r.Clock.Now)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, store.Close()) })
	r.Sides = []simulate.Side{{Limiter: app.NewRateLimiter(store, store, set{p}, silent{}), Policies: set{p}}}
	return r
}

// BenchmarkReplay measures a request without the reading of its line.
func BenchmarkReplay(b *testing.B) {
	r := manyClientsReplay(b, &manyClients{requests: b.N, clients: 10_000}, time.Second)
	b.ReportAllocs()
	b.ResetTimer()
	_, err := r.Run(b.Context())
	require.NoError(b, err)
}

// BenchmarkReplay_memory reports the resident memory that a client takes, of a million with one bucket each that is not full again
// before the end (Linux). The peak of the process counts, so it is right in the first round only:
//
//	go test ./internal/simulate -run '^$' -bench Replay_memory -benchtime 1x
func BenchmarkReplay_memory(b *testing.B) {
	const clients = 1_000_000
	for b.Loop() {
		before := peakMemory(b)
		_, err := manyClientsReplay(b, &manyClients{requests: clients, clients: clients}, 3*time.Hour).Run(b.Context())
		require.NoError(b, err)
		b.ReportMetric(float64(peakMemory(b)-before)/clients, "resident-B/client")
	}
}

// peakMemory returns the most resident memory that this process has had, in bytes.
func peakMemory(b *testing.B) int {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(b, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib := 0
	_, err = fmt.Sscan(rest, &kib)
	require.NoError(b, err)
	return kib << 10
}
