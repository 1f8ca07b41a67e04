package memorypeer

import (
	"context"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/rule"
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func velocity() Peer {
	return Peer{
		Name: "Velocity", Module: "github.com/velocity-limiter/velocity",
		Open: func(l peer.Limit, clients int) (*peer.Limiter, error) {
			limiter, _, err := openVelocity([]peer.Limit{l}, clients)
			return limiter, err
		},
		OpenGroup: openVelocity,
	}
}

func openVelocity(limits []peer.Limit, clients int) (all, first *peer.Limiter, err error) {
	rules, err := rule.All(limits)
	if err != nil {
		return nil, nil, err
	}
	cfg := memstore.DefaultConfig()
	cfg.MaxBuckets = max(cfg.MaxBuckets, 2*clients*len(limits))
	store, err := memstore.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	all = &peer.Limiter{NewTake: func() peer.Take { return newTake(store, rules) }, Close: store.Close}
	first = &peer.Limiter{NewTake: func() peer.Take { return newTake(store, rules[:1]) }}
	return all, first, nil
}

// newTake takes the client's name as the bucket's key: the peers are given theirs ready made, too.
func newTake(store ports.BucketStore, rules []domain.Limit) peer.Take {
	reqs, results := make([]ports.TakeRequest, 1), make([]ports.TakeResult, 1)
	reqs[0] = ports.TakeRequest{Op: domain.OpTake, Limits: rules, Cost: 1}
	return func(ctx context.Context, client string) (bool, error) {
		reqs[0].Key = clientkey.BucketKey(client)
		store.TakeMany(ctx, reqs, results)
		return results[0].Verdict == domain.Allowed, results[0].Err
	}
}
