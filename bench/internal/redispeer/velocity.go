package redispeer

import (
	"context"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/rule"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// OpenVelocity opens Velocity's store on one shard or several, with all limits in one bucket group. The settings are
// the product's defaults except for a timeout of seconds, as the peers have: a late answer must count as late, not as failed.
func OpenVelocity(addrs []string, limits []peer.Limit) (*peer.Limiter, error) {
	rules, err := rule.All(limits)
	if err != nil {
		return nil, err
	}
	cfg := redisstore.DefaultConfig(addrs...)
	cfg.TakeTimeout = 5 * time.Second
	store, err := redisstore.New(cfg)
	if err != nil {
		return nil, err
	}
	return &peer.Limiter{NewTake: func() peer.Take { return newTake(store, rules) }, Close: store.Close}, nil
}

// openVelocityGroup opens the store twice. The first limit has the same name in both, so both use the same bucket.
func openVelocityGroup(addr string, limits []peer.Limit) (all, first *peer.Limiter, err error) {
	if all, err = OpenVelocity([]string{addr}, limits); err != nil {
		return nil, nil, err
	}
	first, err = OpenVelocity([]string{addr}, limits[:1])
	return all, first, err
}

// BucketKey is the key of a client under the policy of the benchmark.
func BucketKey(client string) clientkey.BucketKey {
	return clientkey.NewBucketKey(policy.DefaultName, clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client-id"}, client)
}

// newTake makes the key and computes the tokens that remain and the time to wait within the measured time, as the peers do.
func newTake(store ports.BucketStore, rules []domain.Limit) peer.Take {
	reqs, results := make([]ports.TakeRequest, 1), make([]ports.TakeResult, 1)
	reqs[0] = ports.TakeRequest{Op: domain.OpTake, Limits: rules, Cost: 1}
	statuses := make([]domain.LimitStatus, len(rules))
	return func(ctx context.Context, client string) (bool, error) {
		reqs[0].Key = BucketKey(client)
		store.TakeMany(ctx, reqs, results)
		r := &results[0]
		if r.Err != nil {
			return false, r.Err
		}
		allowed := r.Verdict == domain.Allowed
		for i := range rules {
			statuses[i] = rules[i].Status(r.States[i], r.Now, 1, 0, allowed)
		}
		return allowed, nil
	}
}
