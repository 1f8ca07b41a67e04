package redispeer

import (
	"context"
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/rule"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Batches takes for several clients in one call of Velocity's store, under one policy or several. It is not safe for
// concurrent use.
type Batches struct {
	store    *redisstore.Store
	policies [][]domain.Limit
	reqs     []ports.TakeRequest
	results  []ports.TakeResult
}

// OpenVelocityBatches opens the store on one server.
func OpenVelocityBatches(addr string, policies [][]peer.Limit) (*Batches, error) {
	b := &Batches{}
	for _, limits := range policies {
		rules, err := rule.All(limits)
		if err != nil {
			return nil, err
		}
		b.policies = append(b.policies, rules)
	}
	cfg := redisstore.DefaultConfig(addr)
	cfg.TakeTimeout = 5 * time.Second
	var err error
	b.store, err = redisstore.New(cfg)
	return b, err
}

// Close closes the store.
func (b *Batches) Close() error { return b.store.Close() }

// Policies is how many takes there are for each client.
func (b *Batches) Policies() int { return len(b.policies) }

// Take takes once for each client, under every policy, and returns for how many every policy allowed it.
func (b *Batches) Take(ctx context.Context, clients []string) (allowed int, err error) {
	b.reqs = b.reqs[:0]
	for _, client := range clients {
		for i, limits := range b.policies {
			b.reqs = append(b.reqs, ports.TakeRequest{
				Op: domain.OpTake, Key: policyKey(i, client), Limits: limits, Cost: 1,
			})
		}
	}
	for len(b.results) < len(b.reqs) {
		b.results = append(b.results, ports.TakeResult{})
	}
	b.store.TakeMany(ctx, b.reqs, b.results[:len(b.reqs)])
	for i := range clients {
		all := true
		for _, r := range b.results[i*len(b.policies) : (i+1)*len(b.policies)] {
			if r.Err != nil {
				return allowed, r.Err
			}
			all = all && r.Verdict == domain.Allowed
		}
		if all {
			allowed++
		}
	}
	return allowed, nil
}

// policyKey is the key of a client under the i-th policy.
func policyKey(i int, client string) clientkey.BucketKey {
	if i == 0 {
		return BucketKey(client)
	}
	return clientkey.NewBucketKey(fmt.Sprintf("p%d", i), clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client-id"}, client)
}
