package suite

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"

	"github.com/velocity-limiter/velocity/bench/internal/exchange"
	"github.com/velocity-limiter/velocity/bench/internal/httpload"
	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/replay"
	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/service"
)

const (
	groupProxied  = "requests through a proxy"
	velocityProxy = "Velocity, reverse proxy, memory"
	plainProxy    = "plain fasthttp proxy"
	proxiedPath   = "/orders"
)

// proxied measures what it costs to stand in front of a server: the same server, behind Velocity and behind the plainest
// proxy there is.
func (s *Suite) proxied(ctx context.Context) error {
	section := &report.Section{
		ID: "proxy", Title: "In front of a server",
		About: "Each proxy is a process of its own in front of the bare Fiber handler. CPU is the proxy's alone. The plain proxy is fasthttp's server and " +
			"client and a handler of five lines: it checks nothing, adds nothing, and holds whole bodies in memory.",
		Columns: []report.Column{columnRate, columnP50, columnP99, charted(columnCPU)},
		Ratio:   &report.Ratio{Key: "cpu", Of: plainProxy, Title: "CPU x " + plainProxy},
	}
	var binaries *service.Binaries
	var upstream *service.Service
	through := func(subject string, start func(context.Context) (*service.Service, error)) measurement {
		return measurement{groupProxied, subject, func(ctx context.Context) (report.Values, error) {
			return s.measureProxy(ctx, start)
		}}
	}
	all := []measurement{
		through(velocityProxy, func(ctx context.Context) (*service.Service, error) {
			return binaries.StartVelocity(ctx, append(velocityEnv("blocked", "5/s", nil), "VELOCITY_UPSTREAM_URL=http://"+upstream.Addr)...)
		}),
		through(plainProxy, func(ctx context.Context) (*service.Service, error) {
			return binaries.StartPlainProxy(ctx, upstream.Addr)
		}),
	}
	return s.measure(ctx, section, all, s.cfg.Rounds, stage{setUp: func(ctx context.Context) (stop func(), err error) {
		dir, err := os.MkdirTemp("", "velocity-bench-")
		if err != nil {
			return nil, err
		}
		remove := func() { _ = os.RemoveAll(dir) } // what is left over lies in the folder for temporary files
		if binaries, err = service.Build(ctx, dir); err == nil {
			upstream, err = binaries.StartBareFiber(ctx, []replay.Answer{{
				Path: proxiedPath, Status: 200, Body: `{"orders":[{"id":1,"state":"paid"},{"id":2,"state":"sent"}]}`,
				Header: []replay.Field{{Name: "Content-Type", Value: "application/json"}, {Name: "Cache-Control", Value: "no-store"}},
			}})
		}
		if err != nil {
			remove()
			return nil, err
		}
		return func() { _ = upstream.Stop(); remove() }, nil
	}})
}

func (s *Suite) measureProxy(ctx context.Context, start func(context.Context) (*service.Service, error)) (_ report.Values, err error) {
	running, err := start(ctx)
	if err != nil {
		return nil, err
	}
	connections := httpload.NewConnections(running.Addr)
	defer func() { err = errors.Join(err, connections.Close()) }()
	anyone := func(rng *rand.Rand) string { return s.names[rng.IntN(len(s.names))] }
	return s.run(ctx, running, nil, load.Config{
		Workers: s.cfg.Connections,
		NewCall: func(int) (load.Call, error) { return connections.NewCall(exchange.Get(proxiedPath, anyone)) },
	})
}
