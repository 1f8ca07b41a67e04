// Package redispeer opens limiters that keep their state in Redis and run in the process of their caller.
package redispeer

import (
	"context"
	"errors"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/throttled/throttled/v2"
	goredisstore "github.com/throttled/throttled/v2/store/goredisstore.v9"
	ulule "github.com/ulule/limiter/v3"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
)

// Peer is a kind of limiter.
type Peer struct {
	Name string
	// Module is its Go module; empty if there is none.
	Module string
	// Form says how the limit is expressed, where the peer knows no token bucket.
	Form string
	// Floor is true of a subject that limits nothing and is a lower bound of the work.
	Floor bool
	// Open opens it on one server.
	Open func(addr string, limit peer.Limit) (*peer.Limiter, error)
	// OpenGroup opens it for several limits that are taken together, and returns a second limiter for the first of
	// them only. Nil if the peer has no such groups.
	OpenGroup func(addr string, limits []peer.Limit) (all, first *peer.Limiter, err error)
}

// The names of subjects. RedisRate is the main peer; Script and Ping limit nothing and are lower bounds.
const (
	Velocity  = "Velocity"
	RedisRate = "redis_rate"
	Script    = "EVALSHA alone"
	Ping      = "PING"
)

// DefaultPoolSize is how many connections a peer has. Of 16, 20 (go-redis's default on two CPUs), 64 and 512 it is the
// one at which they used the least CPU time per decision at 64 goroutines, and at 512 none was clearly better.
const DefaultPoolSize = 64

// All returns Velocity first and then its peers, each with a pool of its own of so many connections. Velocity's pool
// is the product's default, since it needs no more.
func All(poolSize int) []Peer {
	pool := pool(poolSize)
	return []Peer{
		{
			Name: Velocity, Module: "github.com/velocity-limiter/velocity",
			Open: func(addr string, l peer.Limit) (*peer.Limiter, error) {
				return OpenVelocity([]string{addr}, []peer.Limit{l})
			},
			OpenGroup: openVelocityGroup,
		},
		{Name: RedisRate, Module: "github.com/go-redis/redis_rate/v10", Open: pool.openRedisRate},
		{Name: "throttled", Module: "github.com/throttled/throttled/v2", Open: pool.openThrottled},
		{Name: "ulule/limiter", Module: "github.com/ulule/limiter/v3", Form: "fixed window", Open: pool.openUlule},
		{Name: Script, Form: "fixed window", Floor: true, Open: pool.openPlain},
		{Name: Ping, Form: "no limit", Floor: true, Open: pool.openPing},
	}
}

// pool is the size of a peer's pool of connections.
type pool int

func (p pool) newClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, PoolSize: int(p)})
}

func (p pool) openRedisRate(addr string, l peer.Limit) (*peer.Limiter, error) {
	client := p.newClient(addr)
	limiter := redis_rate.NewLimiter(client)
	limit := redis_rate.Limit{Rate: l.Tokens, Burst: l.Capacity, Period: l.Per}
	return peer.Shared(func(ctx context.Context, name string) (bool, error) {
		r, err := limiter.Allow(ctx, name, limit)
		if err != nil {
			return false, err
		}
		return r.Allowed > 0, nil
	}, client.Close), nil
}

func (p pool) openThrottled(addr string, l peer.Limit) (*peer.Limiter, error) {
	client := p.newClient(addr)
	store, err := goredisstore.NewCtx(client, "throttled:")
	if err != nil {
		return nil, err
	}
	// Its burst comes on top of the one request that the rate allows at any time.
	limiter, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{
		MaxRate: throttled.PerDuration(l.Tokens, l.Per), MaxBurst: l.Capacity - 1,
	})
	if err != nil {
		return nil, err
	}
	return peer.Shared(func(ctx context.Context, name string) (bool, error) {
		limited, _, err := limiter.RateLimitCtx(ctx, name, 1)
		return !limited, err
	}, client.Close), nil
}

func (p pool) openUlule(addr string, l peer.Limit) (*peer.Limiter, error) {
	client := p.newClient(addr)
	store, err := ululeredis.NewStoreWithOptions(client, ulule.StoreOptions{Prefix: "ulule"})
	if err != nil {
		return nil, err
	}
	limiter := ulule.New(store, ulule.Rate{Period: l.Window(), Limit: int64(l.Capacity)})
	return peer.Shared(func(ctx context.Context, name string) (bool, error) {
		c, err := limiter.Get(ctx, name)
		return !c.Reached, err
	}, client.Close), nil
}

// plainScript does about the least work that a limiter can do in one script.
var plainScript = redis.NewScript(`
local taken = redis.call('INCR', KEYS[1])
if taken == 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return taken <= tonumber(ARGV[1])`)

func (p pool) openPlain(addr string, l peer.Limit) (*peer.Limiter, error) {
	client := p.newClient(addr)
	capacity, window := l.Capacity, l.Window().Milliseconds()
	return peer.Shared(func(ctx context.Context, name string) (bool, error) {
		allowed, err := plainScript.Run(ctx, client, []string{"plain:" + name}, capacity, window).Bool()
		if errors.Is(err, redis.Nil) { // Lua's false
			return false, nil
		}
		return allowed, err
	}, client.Close), nil
}

func (p pool) openPing(addr string, _ peer.Limit) (*peer.Limiter, error) {
	client := p.newClient(addr)
	return peer.Shared(func(ctx context.Context, _ string) (bool, error) {
		return true, client.Ping(ctx).Err()
	}, client.Close), nil
}
