package redisstore_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/ports/porttest"
)

// spare is the script's margin of expiries for limits that fill within 16 s. It is more than a convenience: see
// TestScript_aStallForgetsNoBucketWithinARun.
const spare = time.Second

func TestBucketStore_oneRedis(t *testing.T) { porttest.TestBucketStore(t, harness(t, 1, config)) }

func TestBucketStore_threeShards(t *testing.T) { porttest.TestBucketStore(t, harness(t, 3, config)) }

func TestBucketStore_theCallersClient(t *testing.T) {
	porttest.TestBucketStore(t, harness(t, 1, func(addrs ...string) redisstore.Config {
		return borrowing(t, redis.NewClient(&redis.Options{Addr: addrs[0]}))
	}))
}

// harness runs the contract on n real servers, which all fixtures share, one after the other. The clock lies in
// the future, so that a server never deletes a key by its own.
func harness(t *testing.T, n int, configure func(addrs ...string) redisstore.Config) porttest.Harness {
	_, addrs := redistest.StartN(t, n)
	clients := make([]*redis.Client, n)
	for i, addr := range addrs {
		clients[i] = plainClient(t, addr)
	}
	return porttest.Harness{
		Spare: spare,
		New: func(t *testing.T) porttest.Fixture {
			now := domain.InstantOf(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))
			for _, c := range clients {
				require.NoError(t, c.FlushAll(t.Context()).Err())
				setClock(t, c, now)
			}
			s, err := redisstore.NewWithClockKey(configure(addrs...))
			require.NoError(t, err)
			t.Cleanup(func() { _ = s.Close() })
			return porttest.Fixture{
				Store:   s,
				Foreign: foreign(t, s),
				Advance: func(d time.Duration) {
					now = now.Add(d)
					for _, c := range clients {
						setClock(t, c, now)
					}
				},
				Holds: func(k clientkey.BucketKey) bool {
					at, err := s.Manager().GetClient(string(k)).PExpireTime(t.Context(), script.RedisKey(k)).Result()
					require.NoError(t, err)
					return at > 0 && domain.Instant(at.Microseconds()) >= now
				},
			}
		},
		Unreachable: func(t *testing.T) (ports.BucketStore, time.Duration) {
			frozen, addrs := redistest.StartN(t, n)
			for _, server := range frozen {
				server.Pause()
			}
			s := newStore(t, redisstore.DefaultConfig(addrs...))
			return s, redisstore.DefaultConfig().TakeTimeout
		},
	}
}
