package redispeer

import (
	"context"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/rule"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// OpenVelocity opens Velocity's store on one shard or several, with all limits in one bucket group. Its settings are
// the product's defaults but for the time-out: a peer waits for seconds too, and what is late should count as late.
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

// openVelocityGroup opens it twice: the first limit has the same name in both, and so the same bucket.
func openVelocityGroup(addr string, limits []peer.Limit) (all, first *peer.Limiter, err error) {
	if all, err = OpenVelocity([]string{addr}, limits); err != nil {
		return nil, nil, err
	}
	first, err = OpenVelocity([]string{addr}, limits[:1])
	return all, first, err
}

// BucketKey is the key of a client under the policy of the benchmark.
func BucketKey(client string) domain.BucketKey {
	return domain.NewBucketKey(domain.DefaultPolicyName, domain.KeySource{Kind: domain.SourceHeader, Name: "x-client-id"}, client)
}

// newTake makes the key and works out what remains and how long to wait within the time that is measured, since the
// peers do both too.
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
			statuses[i] = rules[i].Status(r.Buckets[i], r.Now, 1, allowed)
		}
		return allowed, nil
	}
}
