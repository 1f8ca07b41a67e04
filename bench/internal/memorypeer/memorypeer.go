// Package memorypeer opens limiters that keep their state in the memory of their process.
package memorypeer

import (
	"context"
	"sync"
	"time"

	limiter "github.com/sethvargo/go-limiter"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	throttledmem "github.com/throttled/throttled/v2/store/memstore"
	"golang.org/x/time/rate"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
)

// Peer is a kind of limiter.
type Peer struct {
	Name string
	// Module is its Go module.
	Module string
	// Form says how the limit is expressed, where the peer knows no token bucket.
	Form string
	// Open opens it for so many clients: those that bound their memory can hold all of them.
	Open func(limit peer.Limit, clients int) (*peer.Limiter, error)
	// OpenGroup opens it for several limits that are taken together, and returns a second limiter for the first of
	// them only. Nil if the peer has no such groups.
	OpenGroup func(limits []peer.Limit, clients int) (all, first *peer.Limiter, err error)
}

// All returns Velocity first and then its peers.
func All() []Peer {
	return []Peer{
		velocity(),
		{Name: "go-limiter", Module: "github.com/sethvargo/go-limiter", Form: "window", Open: openGoLimiter},
		{Name: "throttled memstore", Module: "github.com/throttled/throttled/v2", Open: openThrottled},
		{Name: "sync.Map of x/time/rate", Module: "golang.org/x/time", Open: openXTimeRate},
	}
}

func openGoLimiter(l peer.Limit, clients int) (*peer.Limiter, error) {
	store, err := memorystore.New(&memorystore.Config{
		Tokens: uint64(l.Capacity), Interval: l.Window(), InitialAlloc: clients,
	})
	if err != nil {
		return nil, err
	}
	closer := func() error { return store.Close(context.Background()) }
	return peer.Shared(takeGoLimiter(store), closer), nil
}

func takeGoLimiter(store limiter.Store) peer.Take {
	return func(ctx context.Context, client string) (bool, error) {
		_, _, _, allowed, err := store.Take(ctx, client)
		return allowed, err
	}
}

// openThrottled opens the store without a bound: a bound would add a list of recent use, which costs more time.
func openThrottled(l peer.Limit, _ int) (*peer.Limiter, error) {
	store, err := throttledmem.NewCtx(0)
	if err != nil {
		return nil, err
	}
	limiter, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{
		MaxRate: throttled.PerDuration(l.Tokens, l.Per), MaxBurst: l.Capacity - 1,
	})
	if err != nil {
		return nil, err
	}
	return peer.Shared(func(ctx context.Context, client string) (bool, error) {
		limited, _, err := limiter.RateLimitCtx(ctx, client, 1)
		return !limited, err
	}, nil), nil
}

// openXTimeRate is what many programs write themselves. It never forgets a client.
func openXTimeRate(l peer.Limit, _ int) (*peer.Limiter, error) {
	var limiters sync.Map
	perSecond := rate.Limit(float64(l.Tokens) * float64(time.Second) / float64(l.Per))
	return peer.Shared(func(_ context.Context, client string) (bool, error) {
		found, ok := limiters.Load(client)
		if !ok {
			found, _ = limiters.LoadOrStore(client, rate.NewLimiter(perSecond, l.Capacity))
		}
		return found.(*rate.Limiter).Allow(), nil
	}, nil), nil
}
