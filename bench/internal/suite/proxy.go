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
	bareProxy     = "bare httputil.ReverseProxy"
	caddyProxy    = "Caddy, reverse_proxy"
	proxiedPath   = "/orders"
)

// proxied measures the cost of a proxy in front of a server: the same server behind Velocity, behind the
// library that its proxy stands on, and behind Caddy, which stands on it, too.
func (s *Suite) proxied(ctx context.Context) error {
	section := &report.Section{
		ID: "proxy", Title: "In front of a server",
		About: "Each proxy is a process of its own in front of the bare Fiber handler. CPU is the proxy's alone. Velocity decides each request in memory, with " +
			"its metrics on, and logs no decisions. The bare proxy is httputil.ReverseProxy on net/http's server, and decides nothing. Caddy logs no requests, and " +
			"may keep as many connections to the server as the others.",
		Columns: []report.Column{columnRate, columnP50, columnP99, columnCPU},
		Ratio:   &report.Ratio{Key: "cpu", Of: bareProxy, Title: "CPU x " + bareProxy},
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
			return binaries.StartVelocity(ctx, append(velocityEnv("none", "5/s", nil), "VELOCITY_UPSTREAM_URL=http://"+upstream.Addr)...)
		}),
		through(bareProxy, func(ctx context.Context) (*service.Service, error) {
			return binaries.StartBareProxy(ctx, upstream.Addr)
		}),
		through(caddyProxy, func(ctx context.Context) (*service.Service, error) {
			return binaries.StartCaddy(ctx, upstream.Addr)
		}),
	}
	return s.measure(ctx, section, all, s.cfg.Rounds, fixture{setUp: func(ctx context.Context) (stop func(), err error) {
		dir, err := os.MkdirTemp("", "velocity-bench-")
		if err != nil {
			return nil, err
		}
		remove := func() { _ = os.RemoveAll(dir) } // what is left over lies in the folder for temporary files
		if binaries, err = service.Build(ctx, dir); err == nil {
			err = binaries.BuildCaddy(ctx)
		}
		if err == nil {
			s.describeBinary(binaries.Caddy, "github.com/caddyserver/caddy/v2")
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
