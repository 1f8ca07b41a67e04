package suite

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/redispeer"
	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

// The subjects of a load in which Redis decides batches of one size: only the policy differs.
const (
	batchSize    = 32
	oneLimit     = "Velocity, 1 limit"
	fourLimits   = "Velocity, 4 limits"
	fourTakes    = "Velocity, a take for each of 4 limits"
	groupBatches = "batches of 32"
)

// limits measures what a policy of several limits costs against one of a single limit, and against several policies.
func (s *Suite) limits(ctx context.Context) error {
	section := &report.Section{
		ID: "limits", Title: "Policies of several limits",
		About: "Velocity's store in process. The limits of a policy are taken together or not at all, in one script; their rates are different, from seconds to a day. " +
			"In batches of 32 one caller asks for so many groups at a time; where each limit is taken for itself, a decision is four of them.",
		Columns: []report.Column{
			columnRate, columnP99, columnClientCPU, charted(columnRedisCPU), columnCPU,
		},
		Ratio: &report.Ratio{Key: "redis_cpu", Of: oneLimit, Title: "Redis CPU x 1 limit"},
	}
	var server *redisserver.Server
	var all []measurement
	for _, x := range []struct {
		subject string
		limits  []peer.Limit
	}{{oneLimit, severalLimits(1)}, {fourLimits, severalLimits(4)}, {"Velocity, 8 limits", severalLimits(8)}} {
		all = append(all, measurement{goroutines(scaleWorkers), x.subject, func(ctx context.Context) (report.Values, error) {
			return s.measureRedis(ctx, []*redisserver.Server{server}, scaleWorkers, func() (*peer.Limiter, error) {
				return redispeer.OpenVelocity([]string{server.Addr}, x.limits)
			})
		}})
	}
	for _, x := range []struct {
		subject  string
		policies [][]peer.Limit
	}{
		{oneLimit, [][]peer.Limit{severalLimits(1)}},
		{fourLimits, [][]peer.Limit{severalLimits(4)}},
		{fourTakes, eachAlone(severalLimits(4))},
	} {
		all = append(all, measurement{groupBatches, x.subject, func(ctx context.Context) (report.Values, error) {
			return s.measureCalls(ctx, []*redisserver.Server{server}, 1, func() (func() load.Call, func() error, error) {
				b, err := redispeer.OpenVelocityBatches(server.Addr, x.policies)
				if err != nil {
					return nil, nil, err
				}
				return func() load.Call { return s.takeBatches(ctx, b) }, b.Close, nil
			})
		}})
	}
	return s.measure(ctx, section, all, s.cfg.Rounds, fixture{setUp: s.oneRedis(&server)})
}

// takeBatches asks for clients drawn at random, as many as their takes fill a batch.
func (s *Suite) takeBatches(ctx context.Context, b *redispeer.Batches) load.Call {
	clients := make([]string, batchSize/b.Policies())
	return func(rng *rand.Rand) (load.Outcome, error) {
		for i := range clients {
			clients[i] = s.names[rng.IntN(len(s.names))]
		}
		allowed, err := b.Take(ctx, clients)
		return load.Outcome{Decisions: len(clients), Allowed: allowed}, err
	}
}

// severalLimits returns the usual limit and n-1 others that no client reaches.
func severalLimits(n int) []peer.Limit {
	limits := []peer.Limit{usual}
	for _, per := range []time.Duration{
		time.Minute, time.Hour, 24 * time.Hour, 2 * time.Second, 10 * time.Second, 10 * time.Minute, 6 * time.Hour,
	}[:n-1] {
		limits = append(limits, peer.Limit{Tokens: 100_000, Per: per, Capacity: 100_000})
	}
	return limits
}

func eachAlone(limits []peer.Limit) [][]peer.Limit {
	var policies [][]peer.Limit
	for _, l := range limits {
		policies = append(policies, []peer.Limit{l})
	}
	return policies
}
