package suite

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/memorypeer"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/redispeer"
	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/stats"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
)

// scaleWorkers is the number of goroutines of the scaling loads.
const scaleWorkers = 64

func shardsSubject(n int) string {
	if n == 1 {
		return "Velocity, 1 shard"
	}
	return fmt.Sprintf("Velocity, %d shards", n)
}

// shards measures whether a decision costs the same on more shards. All servers share this machine's CPUs, so that it
// is the CPU time that matters, not the rate.
func (s *Suite) shards(ctx context.Context) error {
	section := &report.Section{
		ID: "shards", Title: "Shards",
		About: "Velocity's store in process over several redis-servers on this one machine, which adds no CPU with a shard: what should stay equal is the CPU time of " +
			"a decision. With a fixed number of goroutines each shard has fewer at once, and so smaller batches; with so many for each shard it has as many. " +
			"The imbalance is how far the busiest shard lies above the mean, in commands.",
		Columns: []report.Column{
			columnRate, columnP99, columnClientCPU, columnRedisCPU, charted(columnCPU),
			columnScripts,
			{Key: "imbalance", Title: "imbalance %", Decimals: 1},
		},
		Ratio: &report.Ratio{Key: "cpu", Of: shardsSubject(1), Title: "CPU x 1 shard"},
	}
	var servers []*redisserver.Server
	var all []measurement
	const most = 8
	for _, load := range []struct {
		group   string
		workers func(shards int) int
	}{
		{goroutines(scaleWorkers), func(int) int { return scaleWorkers }},
		{goroutines(scaleWorkers) + " for each shard", func(shards int) int { return scaleWorkers * shards }},
	} {
		for n := 1; n <= most; n *= 2 {
			all = append(all, measurement{load.group, shardsSubject(n), func(ctx context.Context) (report.Values, error) {
				return s.measureRedis(ctx, servers[:n], load.workers(n), func() (*peer.Limiter, error) {
					return redispeer.OpenVelocity(addresses(servers[:n]), []peer.Limit{usual})
				})
			}})
		}
	}
	return s.measure(ctx, section, all, s.cfg.Rounds, fixture{setUp: func(ctx context.Context) (stop func(), err error) {
		servers, stop, err = startServers(ctx, most)
		return stop, err
	}})
}

// startServers starts n servers that may use every CPU: on one CPU the shards would wait for each other.
func startServers(ctx context.Context, n int) (servers []*redisserver.Server, stop func(), err error) {
	stop = func() {
		for _, server := range servers {
			_ = server.Close() // nothing that was measured depends on how they end
		}
	}
	for range n {
		server, err := redisserver.Start(ctx, "")
		if err != nil {
			stop()
			return nil, nil, err
		}
		servers = append(servers, server)
	}
	return servers, stop, nil
}

// addresses names the shards, so that routing does not depend on the ports.
func addresses(servers []*redisserver.Server) []string {
	addrs := make([]string, len(servers))
	for i, server := range servers {
		addrs[i] = fmt.Sprintf("s%d=%s", i, server.Addr)
	}
	return addrs
}

// manyClients measures the memory of a million clients.
func (s *Suite) manyClients(ctx context.Context) error {
	section := &report.Section{
		ID: "clients", Title: "Many clients",
		About: "Every client takes once under a limit of 10 a day, which keeps its bucket. Redis: what used_memory grew by, for each key. In memory: what the heap grew by after a " +
			"collection, for each client; the names themselves, which the caller holds, are not in it unless the limiter copies them.",
		Columns: []report.Column{
			{Key: "bytes", Title: "bytes per client", Decimals: 1, Chart: true, LowerIsBetter: true},
			{Key: "seconds", Title: "seconds to fill", Decimals: 1},
		},
	}
	group := fmt.Sprintf("%d clients", s.cfg.ManyClients)
	var names []string
	all := []measurement{{group, velocityRedis, func(ctx context.Context) (report.Values, error) {
		return s.fillRedis(ctx, redispeer.All(s.cfg.PeerPool)[0], names)
	}}}
	for _, p := range memorypeer.All() {
		subject := p.Name
		if isOwn(subject) {
			subject = velocityMemory
		}
		all = append(all, measurement{group, subject, func(ctx context.Context) (report.Values, error) {
			return fillMemory(ctx, p, names)
		}})
	}
	// One round: the bytes do not vary.
	return s.measure(ctx, section, all, 1, fixture{setUp: func(context.Context) (func(), error) {
		names = load.Clients(s.cfg.ManyClients)
		return func() {}, nil
	}})
}

func (s *Suite) fillRedis(ctx context.Context, p redispeer.Peer, names []string) (_ report.Values, err error) {
	server, err := redisserver.Start(ctx, s.redisCPUs())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	start := time.Now()
	bytes, err := s.bytesPerClient(ctx, server, p, names)
	return report.Values{"bytes": bytes, "seconds": time.Since(start).Seconds()}, err
}

func fillMemory(ctx context.Context, p memorypeer.Peer, names []string) (_ report.Values, err error) {
	before := heapBytes()
	limiter, err := p.Open(lasting, len(names))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, limiter.Shut()) }()
	start := time.Now()
	if err := takeEach(ctx, limiter, names); err != nil {
		return nil, err
	}
	took := time.Since(start)
	grown := heapBytes() - before
	runtime.KeepAlive(limiter)
	return report.Values{"bytes": float64(grown) / float64(len(names)), "seconds": took.Seconds()}, nil
}

// heapBytes returns the live heap. It collects twice: the first collection only runs finalizers.
func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// movedKeys counts the clients that change their shard when one is added. It needs no server.
func (s *Suite) movedKeys(ctx context.Context) error {
	section := &report.Section{
		ID: "moved", Title: "Clients that move when a shard is added",
		About: "Owners of all clients before and after, by the shard manager. The least possible is 1/(n+1). The imbalance is how far the shard with the " +
			"most clients lies above the mean, before.",
		Columns: []report.Column{
			{Key: "moved", Title: "% moved", Decimals: 2, Chart: true, LowerIsBetter: true},
			{Key: "least", Title: "% least possible", Decimals: 2},
			{Key: "imbalance", Title: "imbalance %", Decimals: 2},
		},
	}
	var all []measurement
	for _, n := range []int{1, 2, 3, 4, 8} {
		for _, strategy := range []redisstore.Strategy{redisstore.StrategyRendezvous, redisstore.StrategyModulo} {
			all = append(all, measurement{
				fmt.Sprintf("from %d to %d", n, n+1), "Velocity, " + string(strategy),
				func(context.Context) (report.Values, error) { return s.countMoved(strategy, n) },
			})
		}
	}
	return s.measure(ctx, section, all, 1, fixture{}) // a second round would count the same
}

func (s *Suite) countMoved(strategy redisstore.Strategy, n int) (report.Values, error) {
	before, err := s.owners(strategy, n)
	if err != nil {
		return nil, err
	}
	after, err := s.owners(strategy, n+1)
	if err != nil {
		return nil, err
	}
	moved := 0
	clientsOf := make(map[string]float64)
	for i, owner := range before {
		clientsOf[owner]++
		if after[i] != owner {
			moved++
		}
	}
	var shares []float64
	for _, clients := range clientsOf {
		shares = append(shares, clients)
	}
	return report.Values{
		"moved":     100 * share(int64(moved), int64(len(before))),
		"least":     100 / float64(n+1),
		"imbalance": 100 * stats.Imbalance(shares),
	}, nil
}

// owners returns the address of each client's shard. Nothing listens there and nothing is sent.
func (s *Suite) owners(strategy redisstore.Strategy, n int) (_ []string, err error) {
	var addrs []string
	for i := range n {
		addrs = append(addrs, fmt.Sprintf("s%d=192.0.2.%d:6379", i, i+1))
	}
	cfg := redisstore.DefaultConfig(addrs...)
	cfg.Strategy = strategy
	store, err := redisstore.New(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	owners := make([]string, len(s.names))
	for i, name := range s.names {
		owners[i] = store.Manager().GetClient(string(redispeer.BucketKey(name))).Options().Addr
	}
	return owners, nil
}
