package suite

import (
	"context"
	"debug/buildinfo"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/exchange"
	"github.com/velocity-limiter/velocity/bench/internal/grpcload"
	"github.com/velocity-limiter/velocity/bench/internal/invariant"
	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/machine"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
	"github.com/velocity-limiter/velocity/bench/internal/replay"
	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/service"
)

// The loads and subjects of whole services.
const (
	groupRequests = "requests of many clients"
	groupFlood    = "flood of one blocked client"
	groupAPI      = "decision API"

	velocityRedis  = "Velocity, Redis"
	velocityMemory = "Velocity, memory"
	velocityAll    = "Velocity, Redis, all logged"
	velocityNone   = "Velocity, Redis, none logged"
	velocityGRPC   = "Velocity, Redis, over Envoy's protocol"
	velocityCheck  = "Velocity, Redis, /v1/check"
	velocityChecks = "Velocity, Redis, /v1/checks of 100"
	bareFiber      = "bare Fiber"
	bareHTTP       = "bare net/http"
	envoy          = "envoyproxy/ratelimit"
	envoyGathered  = "envoyproxy/ratelimit, writes gathered"
	envoyCached    = "envoyproxy/ratelimit, local cache"
)

var (
	// gathered uses the shortest time that its documentation recommends.
	gathered = service.EnvoyOptions{GatherWrites: 150 * time.Microsecond}
	// cached holds far more keys than the loads take over their limit.
	cached = service.EnvoyOptions{CacheBytes: 64 << 20}
)

// environment holds what the services of a run share: the binaries, one Redis, and the answers that the bare handler sends.
type environment struct {
	binaries *service.Binaries
	redis    *redisserver.Server
	answers  []replay.Answer
}

func (s *Suite) services(ctx context.Context) error {
	section := &report.Section{
		ID: "services", Title: "Whole services",
		About: "Each service is a process of its own, started anew for each measurement, with its log going to a file. CPU per decision is that of the " +
			"service and of its Redis, by the kernel's clocks of the two processes; the load generator's is not in it. Decisions/s is what the machine reaches with the " +
			"generator on the same CPUs. Velocity and two bare handlers, on Fiber and on net/http, which send the same header and body and decide nothing, are asked over HTTP/1.1; " +
			"Velocity with the very same rules, too, and envoyproxy/ratelimit over gRPC, that one with statistics off and only errors logged. " +
			"Velocity waits for Redis for up to a second, so that a late answer counts as late. envoyproxy/ratelimit knows fixed windows only: 5 per second for the many clients. " +
			"The latencies are of calls, so those of /v1/checks are of 100 decisions.",
		Columns: []report.Column{
			columnRate, columnP50, columnP99, columnServiceCPU, columnRedisCPU, columnCPU, columnScripts, columnCommands,
			{Key: "allowed", Title: "% allowed", Decimals: 2},
			{Key: "degraded", Title: "% decided by a fallback", Decimals: 3},
		},
		Ratio: &report.Ratio{Key: "cpu", Of: bareFiber, Title: "CPU us over " + bareFiber, Difference: true},
		Facts: []string{factOver, factPass, factSpent, factForm},
	}
	a := &environment{}
	return s.measure(ctx, section, s.serviceMeasurements(a), s.cfg.Rounds, fixture{
		setUp:    func(ctx context.Context) (func(), error) { return s.setUpServices(ctx, a) },
		describe: func(ctx context.Context) { s.describeServices(ctx, section, a) },
	})
}

func (s *Suite) setUpServices(ctx context.Context, a *environment) (stop func(), err error) {
	dir, err := os.MkdirTemp("", "velocity-bench-")
	if err != nil {
		return nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) } // what is left over lies in the folder for temporary files
	defer func() {
		if err != nil {
			remove()
		}
	}()
	if a.binaries, err = service.Build(ctx, dir); err != nil {
		return nil, err
	}
	s.describeBinaries(a.binaries)
	if a.answers, err = recordAnswers(ctx, a.binaries); err != nil {
		return nil, err
	}
	stopRedis, err := s.oneRedis(&a.redis)(ctx)
	if err != nil {
		return nil, err
	}
	return func() { stopRedis(); remove() }, nil
}

// describeBinaries lists what the services were built from.
func (s *Suite) describeBinaries(b *service.Binaries) {
	s.describeBinary(b.BareFiber, "github.com/gofiber/fiber/v2", "github.com/valyala/fasthttp")
	s.describeBinary(b.EnvoyRatelimit, "github.com/envoyproxy/ratelimit")
}

// describeBinary lists the versions of modules that a binary was built from.
func (s *Suite) describeBinary(file string, modules ...string) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		s.fail("versions of "+file, err)
		return
	}
	for _, f := range machine.Modules(info, modules...) {
		if !slices.Contains(s.versions, f) { // another section may use the same binary
			s.versions = append(s.versions, f)
		}
	}
}

// noDrain is for the time after the measurement alone.
const noDrain = "VELOCITY_HTTP_DRAIN_PERIOD=0s"

// onRedis are the settings of a Redis. A late answer must count as late, and not as failed, as with the peers.
func onRedis(redis *redisserver.Server) []string {
	return []string{"VELOCITY_STORE=redis", "VELOCITY_REDIS_ADDRS=" + redis.Addr, "VELOCITY_TAKE_TIMEOUT=1s"}
}

// velocityEnv are the settings of Velocity in these loads, beside its defaults.
func velocityEnv(logDecisions, rate string, redis *redisserver.Server) []string {
	env := []string{
		"VELOCITY_LOG_DECISIONS=" + logDecisions, "VELOCITY_RATE=" + rate, "VELOCITY_CAPACITY=10",
		noDrain,
	}
	if redis == nil {
		return append(env, "VELOCITY_STORE=memory")
	}
	return append(env, onRedis(redis)...)
}

func (s *Suite) serviceMeasurements(a *environment) []measurement {
	const few, hourly = "5/s", "1/h"
	velocity := func(group, subject string, x httpLoad, env func() []string) measurement {
		return measurement{group, subject, func(ctx context.Context) (report.Values, error) {
			return s.measureHTTP(ctx, a, x, func() (*service.Service, error) {
				return a.binaries.StartVelocity(ctx, env()...)
			})
		}}
	}
	withRedis := func(logging, rate string) func() []string {
		return func() []string { return velocityEnv(logging, rate, a.redis) }
	}
	inMemory := func(logging, rate string) func() []string {
		return func() []string { return velocityEnv(logging, rate, nil) }
	}
	bare := func(group, subject string, x httpLoad, start func(*service.Binaries, context.Context, []replay.Answer) (*service.Service, error)) measurement {
		return measurement{group, subject, func(ctx context.Context) (report.Values, error) {
			return s.measureHTTP(ctx, a, x, func() (*service.Service, error) {
				return start(a.binaries, ctx, a.answers)
			})
		}}
	}
	grpc := func(group, subject, key string, client exchange.Client, o service.EnvoyOptions) measurement {
		return measurement{group, subject, func(ctx context.Context) (report.Values, error) {
			return s.measureGRPC(ctx, a, client, []grpcload.Descriptor{{Key: key}}, func() (*service.Service, error) {
				return a.binaries.StartEnvoyRatelimit(ctx, a.redis.Addr, o)
			})
		}}
	}
	overGRPC := func(group, key string, client exchange.Client, logging string) measurement {
		return measurement{group, velocityGRPC, func(ctx context.Context) (report.Values, error) {
			return s.measureGRPC(ctx, a, client, []grpcload.Descriptor{{Key: key}}, func() (*service.Service, error) {
				return a.binaries.StartVelocityForEnvoy(ctx, "", velocityEnv(logging, few, a.redis)...)
			})
		}}
	}
	anyone := func(rng *rand.Rand) string { return s.names[rng.IntN(len(s.names))] }
	theOne := func(*rand.Rand) string { return s.names[0] }
	many := httpLoad{exchange.Get(resourcePath, anyone), s.cfg.Connections}
	one := httpLoad{exchange.Get(resourcePath, theOne), s.cfg.Connections}
	denied := httpLoad{exchange.Get(deniedPath, theOne), s.cfg.Connections}
	return []measurement{
		velocity(groupRequests, velocityRedis, many, withRedis("blocked", few)),
		velocity(groupRequests, velocityAll, many, withRedis("all", few)),
		velocity(groupRequests, velocityNone, many, withRedis("none", few)),
		velocity(groupRequests, velocityMemory, many, inMemory("blocked", few)),
		bare(groupRequests, bareFiber, many, (*service.Binaries).StartBareFiber),
		bare(groupRequests, bareHTTP, many, (*service.Binaries).StartBareHTTP),
		overGRPC(groupRequests, service.EnvoyPerSecond, anyone, "blocked"),
		grpc(groupRequests, envoy, service.EnvoyPerSecond, anyone, service.EnvoyOptions{}),
		grpc(groupRequests, envoyGathered, service.EnvoyPerSecond, anyone, gathered),
		grpc(groupRequests, envoyCached, service.EnvoyPerSecond, anyone, cached),

		velocity(groupFlood, velocityRedis, one, withRedis("none", hourly)),
		velocity(groupFlood, velocityMemory, one, inMemory("none", hourly)),
		bare(groupFlood, bareFiber, denied, (*service.Binaries).StartBareFiber),
		bare(groupFlood, bareHTTP, denied, (*service.Binaries).StartBareHTTP),
		overGRPC(groupFlood, service.EnvoyFlooded, theOne, "none"),
		grpc(groupFlood, envoy, service.EnvoyFlooded, theOne, service.EnvoyOptions{}),
		grpc(groupFlood, envoyCached, service.EnvoyFlooded, theOne, cached),

		velocity(groupAPI, velocityCheck, httpLoad{exchange.Check(anyone), s.cfg.Connections}, withRedis("blocked", few)),
		velocity(groupAPI, velocityChecks, httpLoad{exchange.Checks(anyone, perCall), checksConnections}, withRedis("blocked", few)),
	}
}

// run measures a service that has been started, and stops it.
func (s *Suite) run(ctx context.Context, running *service.Service, servers []*redisserver.Server, cfg load.Config) (_ report.Values, err error) {
	defer func() { err = errors.Join(err, running.Stop()) }()
	m := newUsage(servers, running.CPUTime)
	cfg.Seed, cfg.Warmup, cfg.Duration = s.cfg.Seed, s.cfg.Warmup, s.cfg.Duration
	profiled := func() error { return nil }
	cfg.Started = func() error {
		profiled = s.profile(ctx, running)
		return m.start(ctx)
	}
	cfg.Ended = func() error { return m.stop(ctx) }
	result, err := load.Run(ctx, cfg)
	if err := errors.Join(err, profiled()); err != nil {
		return nil, err
	}
	return m.values(result, "service_cpu")
}

// describeServices checks the limits of the services that decide.
func (s *Suite) describeServices(ctx context.Context, section *report.Section, a *environment) {
	s.examine(section, map[string]examination{
		velocityRedis: func() (map[string]string, error) { return s.examineVelocity(ctx, a) },
		envoy:         func() (map[string]string, error) { return s.examineEnvoy(ctx, a, envoy, service.EnvoyOptions{}) },
		envoyGathered: func() (map[string]string, error) { return s.examineEnvoy(ctx, a, envoyGathered, gathered) },
		envoyCached:   func() (map[string]string, error) { return s.examineEnvoy(ctx, a, envoyCached, cached) },
	})
}

func (s *Suite) examineVelocity(ctx context.Context, a *environment) (_ map[string]string, err error) {
	running, err := a.binaries.StartVelocity(ctx, velocityEnv("none", "5/s", a.redis)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	take, closer, err := takeOverHTTP(running.Addr)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closer()) }()
	finding, err := invariant.WorstAtTheEdge(ctx, take, "edge", usual, usual.Window(), s.cfg.InvariantTries)
	return describeFinding(finding, ""), err
}

// perSecondWindow is EnvoyPerSecond as a limit.
var perSecondWindow = peer.Limit{Tokens: 5, Per: time.Second, Capacity: 5}

func (s *Suite) examineEnvoy(ctx context.Context, a *environment, client string, o service.EnvoyOptions) (_ map[string]string, err error) {
	running, err := a.binaries.StartEnvoyRatelimit(ctx, a.redis.Addr, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	connections, err := dialEnvoy(running, 1)
	if err != nil {
		return nil, err
	}
	defer connections.Close()
	finding, err := invariant.WorstAtTheEdge(ctx, connections.Take(grpcload.Descriptor{Key: service.EnvoyPerSecond}), client, perSecondWindow,
		perSecondWindow.Window(), s.cfg.InvariantTries)
	if err != nil {
		return nil, err
	}
	facts := describeFinding(finding, "fixed window, 5 per second")
	wide, narrow := grpcload.Descriptor{Key: service.EnvoyWide}, grpcload.Descriptor{Key: service.EnvoyNarrow}
	spent, err := invariant.SpentByDenials(ctx, connections.Take(wide, narrow), connections.Take(wide), client)
	if err != nil {
		return facts, err
	}
	facts[factSpent] = describeSpent(spent, true)
	return facts, nil
}
