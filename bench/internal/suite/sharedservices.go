package suite

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/velocity-limiter/velocity/bench/internal/exchange"
	"github.com/velocity-limiter/velocity/bench/internal/grpcload"
	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/service"
)

// The loads of whole services with limits that many requests share. Velocity's subjects are those of sharedLimits.
const (
	groupSharedHTTP = "HTTP/1.1"
	groupSharedGRPC = "Envoy's protocol"

	envoyPerClient       = "envoyproxy/ratelimit, per client"
	envoyPerClientGlobal = "envoyproxy/ratelimit, per client and global"
	envoyPerClientTenant = "envoyproxy/ratelimit, per client and tenant of 100"
	envoyHotKey          = "envoyproxy/ratelimit, one key for all"
)

// sharedCase is one way to limit, in the words of each service.
type sharedCase struct {
	velocity, envoy string // the subjects
	key, limits     string // of a policy file
	descriptors     []grpcload.Descriptor
}

func sharedCases() []sharedCase {
	const own, endless = "{ name: own, rate: 5/s, capacity: 10 }", "rate: 100000000/s, capacity: 100000000"
	client := grpcload.Descriptor{Key: service.EnvoyPerSecond}
	all := grpcload.Descriptor{Key: service.EnvoyEndless, Value: everybody}
	return []sharedCase{
		{perClient, envoyPerClient, "header:X-Client-ID", own, []grpcload.Descriptor{client}},
		{
			perClientGlobal, envoyPerClientGlobal, "header:X-Client-ID", own + ", { name: all, key: global, " + endless + " }",
			[]grpcload.Descriptor{client, all},
		},
		{
			perClientTenant, envoyPerClientTenant, "header:X-Client-ID", own + ", { name: tenant, key: header:X-Tenant, " + endless + " }",
			[]grpcload.Descriptor{client, {Key: service.EnvoyEndless, Value: tenantOf}},
		},
		{hotKey, envoyHotKey, "global", "{ name: all, " + endless + " }", []grpcload.Descriptor{all}},
	}
}

// policies is the case as a policy file.
func (c *sharedCase) policies() string {
	return fmt.Sprintf("policies:\n  - name: default\n    match: { path: \"/**\" }\n    key: %s\n    limits: [ %s ]\n", c.key, c.limits)
}

// sharedServices measures whole services with limits whose key many requests have in common.
func (s *Suite) sharedServices(ctx context.Context) error {
	section := &report.Section{
		ID: "shared-services", Title: "Whole services with limits that many requests share",
		About: "The limits of the section before, asked of whole services, which are processes of their own. CPU per decision is that of the service and of its Redis; " +
			"a decision is one request, whatever the number of its limits. A request names its client and its tenant: over HTTP in headers, over Envoy's protocol " +
			"in a descriptor for each limit. envoyproxy/ratelimit counts in windows of a second.",
		Columns: []report.Column{
			columnRate, columnP50, columnP99, columnServiceCPU, columnRedisCPU, columnCPU, columnScripts, columnCommands,
			{Key: "degraded", Title: "% decided by a fallback", Decimals: 3},
		},
		Ratio: &report.Ratio{Key: "cpu", Of: perClient, Title: "CPU x " + perClient},
	}
	a := &environment{}
	return s.measure(ctx, section, s.sharedServiceMeasurements(a), s.cfg.Rounds, fixture{
		setUp: func(ctx context.Context) (func(), error) { return s.setUpServices(ctx, a) },
	})
}

func (s *Suite) sharedServiceMeasurements(a *environment) []measurement {
	anyone := func(rng *rand.Rand) string { return s.names[rng.IntN(len(s.names))] }
	var overHTTP, overGRPC, envoys []measurement
	for _, c := range sharedCases() {
		overHTTP = append(overHTTP, measurement{groupSharedHTTP, c.velocity, func(ctx context.Context) (report.Values, error) {
			return s.measureHTTP(ctx, a, httpLoad{exchange.GetOfTenant(resourcePath, anyone, tenantOf), s.cfg.Connections}, func() (*service.Service, error) {
				return a.binaries.StartVelocityWith(ctx, c.policies(), append(onRedis(a.redis), noDrain)...)
			})
		}})
		overGRPC = append(overGRPC, measurement{groupSharedGRPC, c.velocity, func(ctx context.Context) (report.Values, error) {
			return s.measureGRPC(ctx, a, anyone, c.descriptors, func() (*service.Service, error) {
				return a.binaries.StartVelocityForEnvoy(ctx, "", velocityEnv("blocked", "5/s", a.redis)...)
			})
		}})
		envoys = append(envoys, measurement{groupSharedGRPC, c.envoy, func(ctx context.Context) (report.Values, error) {
			return s.measureGRPC(ctx, a, anyone, c.descriptors, func() (*service.Service, error) {
				return a.binaries.StartEnvoyRatelimit(ctx, a.redis.Addr, service.EnvoyOptions{})
			})
		}})
	}
	return append(append(overHTTP, overGRPC...), envoys...)
}
