package suite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/process"
	"github.com/velocity-limiter/velocity/bench/internal/redispeer"
	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

func goroutines(n int) string {
	if n == 1 {
		return "1 goroutine"
	}
	return fmt.Sprintf("%d goroutines", n)
}

func (s *Suite) inProcess(ctx context.Context) error {
	section := &report.Section{
		ID: "inprocess", Title: "In process, one Redis",
		About: "Limiters as libraries, over TCP to one redis-server. Each goroutine asks for a client drawn at random, waits for the answer and " +
			"asks again. Client CPU is this process's, the load's own tenth of a microsecond included; commands are all that Redis ran, those called by scripts too. " +
			"EVALSHA alone is a script of two commands that counts in a fixed window, PING decides nothing: they show what one round trip per decision costs. " +
			"Tokens over the limit: a client asks once, waits until the window of its limit is nearly over and asks as fast as it can across the edge; and ten denials by one " +
			"limit of two should take no token from the other.",
		Columns: []report.Column{
			columnRate, columnP50, charted(columnP99), columnClientCPU, columnRedisCPU, charted(columnCPU),
			columnScripts, columnCommands,
			{Key: "bytes", Title: "Redis bytes per client"},
		},
		Ratio: &report.Ratio{Key: "rate", Of: redispeer.RedisRate, Title: "x " + redispeer.RedisRate},
		Facts: []string{factOver, factPass, factSpent, factForm},
	}
	var server *redisserver.Server
	var all []measurement
	for _, workers := range []int{1, 64, 512} {
		for _, p := range redispeer.All(s.cfg.PeerPool) {
			all = append(all, measurement{goroutines(workers), p.Name, func(ctx context.Context) (report.Values, error) {
				return s.measureRedis(ctx, []*redisserver.Server{server}, workers, func() (*peer.Limiter, error) {
					return p.Open(server.Addr, usual)
				})
			}})
		}
	}
	return s.measure(ctx, section, all, s.cfg.Rounds, fixture{
		setUp:    s.oneRedis(&server),
		describe: func(ctx context.Context) { s.describeRedisPeers(ctx, section, server) },
	})
}

// measureRedis measures a limiter that runs in this process against its servers.
func (s *Suite) measureRedis(ctx context.Context, servers []*redisserver.Server, workers int,
	open func() (*peer.Limiter, error),
) (report.Values, error) {
	return s.measureCalls(ctx, servers, workers, func() (func() load.Call, func() error, error) {
		limiter, err := open()
		if err != nil {
			return nil, nil, err
		}
		return func() load.Call { return s.takeAtRandom(ctx, limiter.NewTake()) }, limiter.Shut, nil
	})
}

// measureCalls measures the calls that open makes, one for each worker, and closes what they came from.
func (s *Suite) measureCalls(ctx context.Context, servers []*redisserver.Server, workers int,
	open func() (newCall func() load.Call, shut func() error, err error),
) (values report.Values, err error) {
	for _, server := range servers {
		if err := server.Flush(ctx); err != nil {
			return nil, err
		}
	}
	newCall, shut, err := open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, shut()) }()

	m := newUsage(servers, func() (time.Duration, error) { return process.OwnCPUTime(), nil })
	result, err := load.Run(ctx, load.Config{
		Workers: workers, Seed: s.cfg.Seed, Warmup: s.cfg.Warmup, Duration: s.cfg.Duration,
		NewCall: func(int) (load.Call, error) { return newCall(), nil },
		Started: func() error { return m.start(ctx) },
		Ended:   func() error { return m.stop(ctx) },
	})
	if err != nil {
		return nil, err
	}
	return m.values(result, "client_cpu")
}

// takeAtRandom gives every subject a context that cannot be canceled, as Fiber's handlers have it: to return early, a store
// must wait on another goroutine, which costs time.
func (s *Suite) takeAtRandom(ctx context.Context, take peer.Take) load.Call {
	ctx = context.WithoutCancel(ctx)
	return func(rng *rand.Rand) (load.Outcome, error) {
		allowed, err := take(ctx, s.names[rng.IntN(len(s.names))])
		o := load.Outcome{Decisions: 1}
		if allowed {
			o.Allowed = 1
		}
		return o, err
	}
}

// describeRedisPeers measures what does not depend on the load: the memory of a client, and the limit.
func (s *Suite) describeRedisPeers(ctx context.Context, section *report.Section, server *redisserver.Server) {
	examinations := make(map[string]examination)
	for _, p := range redispeer.All(s.cfg.PeerPool) {
		if !measured(section, p.Name) {
			continue
		}
		bytes, err := s.bytesPerClient(ctx, server, p, s.names)
		if err != nil {
			s.fail(section.ID+"/memory/"+p.Name, err)
		}
		for _, r := range section.Rows {
			if r.Subject == p.Name && bytes > 0 {
				r.Rounds[0]["bytes"] = bytes
			}
		}
		if !p.Floor {
			examinations[p.Name] = s.examineLimiter(ctx, redisPeerOn(p, server.Addr))
		}
	}
	s.examine(section, examinations)
}

// lasting is a limit whose buckets outlive a test.
var lasting = peer.Limit{Tokens: 10, Per: 24 * time.Hour, Capacity: 10}

// bytesPerClient takes once for every client under a limit that keeps them all, and divides what Redis has allocated by
// the number of new keys. It returns 0 if there are none. Connections and scripts exist before.
func (s *Suite) bytesPerClient(ctx context.Context, server *redisserver.Server, p redispeer.Peer, names []string) (_ float64, err error) {
	limiter, err := p.Open(server.Addr, lasting)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, limiter.Shut()) }()
	if err := takeEach(ctx, limiter, names[:min(len(names), 1000)]); err != nil {
		return 0, err
	}
	if err := server.Flush(ctx); err != nil {
		return 0, err
	}
	before, _, err := server.Memory(ctx)
	if err != nil {
		return 0, err
	}
	if err := takeEach(ctx, limiter, names); err != nil {
		return 0, err
	}
	after, keys, err := server.Memory(ctx)
	if err != nil || keys == 0 {
		return 0, err
	}
	return float64(after-before) / float64(keys), nil
}

// takeEach takes once for each client, with 64 at work.
func takeEach(ctx context.Context, limiter *peer.Limiter, names []string) error {
	const workers = 64
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			take := limiter.NewTake()
			for i := w; i < len(names) && errs[w] == nil; i += workers {
				_, errs[w] = take(ctx, names[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func redisPeerOn(p redispeer.Peer, addr string) opener {
	o := opener{form: p.Form, open: func(l peer.Limit) (*peer.Limiter, error) { return p.Open(addr, l) }}
	if p.OpenGroup != nil {
		o.group = func(l []peer.Limit) (all, first *peer.Limiter, err error) { return p.OpenGroup(addr, l) }
	}
	return o
}
