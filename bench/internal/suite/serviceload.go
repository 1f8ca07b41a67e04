package suite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"

	"github.com/velocity-limiter/velocity/bench/internal/exchange"
	"github.com/velocity-limiter/velocity/bench/internal/grpcload"
	"github.com/velocity-limiter/velocity/bench/internal/httpload"
	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
	"github.com/velocity-limiter/velocity/bench/internal/replay"
	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/service"
)

const (
	resourcePath = "/api/resource"
	deniedPath   = "/denied" // only the bare handler has it
)

// perCall is the number of checks in one call of /v1/checks. checksConnections is the number of calls in flight: fewer than
// for other loads, since each call is a hundred decisions.
const (
	perCall           = 100
	checksConnections = 8
)

// httpLoad is a load over HTTP.
type httpLoad struct {
	httpload.Exchange
	connections int
}

func (s *Suite) measureHTTP(ctx context.Context, a *environment, x httpLoad, start func() (*service.Service, error)) (_ report.Values, err error) {
	if err := a.redis.Flush(ctx); err != nil {
		return nil, err
	}
	running, err := start()
	if err != nil {
		return nil, err
	}
	connections := httpload.NewConnections(running.Addr)
	defer func() { err = errors.Join(err, connections.Close()) }()
	return s.run(ctx, running, []*redisserver.Server{a.redis}, load.Config{
		Workers: x.connections,
		NewCall: func(int) (load.Call, error) { return connections.NewCall(x.Exchange) },
	})
}

// inFlight is the number of concurrent gRPC calls.
const inFlight = 256

// measureGRPC measures a service with Envoy's protocol.
func (s *Suite) measureGRPC(ctx context.Context, a *environment, draw exchange.Client, ask []grpcload.Descriptor,
	start func() (*service.Service, error),
) (_ report.Values, err error) {
	if err := a.redis.Flush(ctx); err != nil {
		return nil, err
	}
	running, err := start()
	if err != nil {
		return nil, err
	}
	connections, err := dialEnvoy(running, s.cfg.GRPCConns)
	if err != nil {
		return nil, errors.Join(err, running.Stop())
	}
	defer func() { err = errors.Join(err, connections.Close()) }()
	return s.run(ctx, running, []*redisserver.Server{a.redis}, load.Config{
		Workers: inFlight,
		NewCall: func(worker int) (load.Call, error) { return connections.NewCall(ctx, worker, draw, ask...), nil },
	})
}

func dialEnvoy(running *service.Service, connections int) (*grpcload.Connections, error) {
	return grpcload.Dial(running.Addr, connections, service.EnvoyDomain)
}

// recordAnswers records what Velocity sends when it allows and when it denies.
func recordAnswers(ctx context.Context, b *service.Binaries) (_ []replay.Answer, err error) {
	var answers []replay.Answer
	for _, x := range []struct {
		rate, path string
		requests   int // the answer to the last one is recorded
		status     int
	}{{"5/s", resourcePath, 1, http.StatusOK}, {"1/h", deniedPath, 11, http.StatusTooManyRequests}} {
		running, err := b.StartVelocity(ctx, velocityEnv("none", x.rate, nil)...)
		if err != nil {
			return nil, err
		}
		connections := httpload.NewConnections(running.Addr)
		var answer httpload.Answer
		for range x.requests {
			if answer, err = connections.Do(exchange.AppendGet(nil, resourcePath, "client000000")); err != nil {
				break
			}
		}
		if err := errors.Join(err, connections.Close(), running.Stop()); err != nil {
			return nil, err
		}
		if answer.Status != x.status {
			return nil, fmt.Errorf("the recorded answer is %d and not %d: %s", answer.Status, x.status, answer.Body)
		}
		answers = append(answers, replay.Record(x.path, answer))
	}
	return answers, nil
}

// takeOverHTTP asks Velocity's protected resource on a connection of its own.
func takeOverHTTP(addr string) (take peer.Take, closer func() error, err error) {
	connections := httpload.NewConnections(addr)
	var client string // of the call that is made next
	call, err := connections.NewCall(exchange.Get(resourcePath, func(*rand.Rand) string { return client }))
	return func(_ context.Context, name string) (bool, error) {
		client = name
		o, err := call(nil)
		return o.Allowed == 1, err
	}, connections.Close, err
}
