package redisstore_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// slack is what a busy machine may add to a budget.
const slack = time.Second

// tampering is what may happen to an answer on its way.
var tampering = map[string]redistest.Tamper{
	"cut before the first byte":  func([]byte) ([]byte, bool) { return nil, false },
	"cut in the middle":          func(a []byte) ([]byte, bool) { return a[:len(a)/2], false },
	"never sent":                 func([]byte) ([]byte, bool) { return nil, true },
	"never finished":             func(a []byte) ([]byte, bool) { return a[:len(a)-1], true },
	"not the protocol":           func([]byte) ([]byte, bool) { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), false },
	"another type":               func([]byte) ([]byte, bool) { return []byte("+OK\r\n"), true },
	"an empty array":             func([]byte) ([]byte, bool) { return []byte("*0\r\n"), true },
	"another request's answer":   func([]byte) ([]byte, bool) { return []byte("*2\r\n:3\r\n:7\r\n"), true },
	"an error that may be later": func([]byte) ([]byte, bool) { return []byte("-ERR Error running script\r\n"), true },
}

// impossible are answers on which go-redis panics. A caller's own ClusterClient does so on its own goroutine.
var impossible = map[string]redistest.Tamper{
	"a string beyond all memory": func([]byte) ([]byte, bool) { return []byte("*1\r\n$9223372036854775805\r\n"), true },
	"more elements than memory":  func([]byte) ([]byte, bool) { return []byte("*9223372036854775807\r\n"), true },
}

func TestTakeMany_aLostOrGarbledAnswerIsNeverAskedForAgain(t *testing.T) {
	server := redistest.Start(t)
	lostAnswers(t, server.Addr, plainClient(t, server.Addr), config, tampering, impossible)
}

// lostAnswers tampers with the answers of the server at upstream. The store is configured for a proxy before that server.
func lostAnswers(
	t *testing.T, upstream string, c *redis.Client, configure func(addrs ...string) redisstore.Config,
	ways ...map[string]redistest.Tamper,
) {
	l := limit(t, "burst", "1/h", 10)
	all := make(map[string]redistest.Tamper)
	for _, some := range ways {
		maps.Copy(all, some)
	}
	for name, tamper := range all {
		t.Run(name, func(t *testing.T) {
			p := redistest.StartProxy(t, upstream)
			cfg := configure(p.Addr)
			cfg.TakeTimeout = 500 * time.Millisecond
			s := newStore(t, cfg)
			takeOne(t, s, name, 1, l) // connects, and caches the script
			before := calls(t, c, "evalsha")

			p.TamperOnce(tamper)
			r := ports.Take(t.Context(), s, take(name, 1, l))
			require.ErrorIs(t, r.Err, ports.ErrUnavailable)
			require.Equal(t, 1, p.Tampered(), "the answer came by")

			after := takeOne(t, s, name, 1, l)
			assert.Equal(t, domain.Tokens(7), l.Remaining(after.States[0]), "three takes, each debited once")
			ran, err := strconv.Atoi(before)
			require.NoError(t, err)
			assert.Equal(t, strconv.Itoa(ran+2), calls(t, c, "evalsha"))
		})
	}
}

func TestTakeMany_serversThatCannotWriteRefuseBeforeTheScriptRuns(t *testing.T) {
	l := limit(t, "burst", "1/h", 10)
	t.Run("read-only replica", func(t *testing.T) {
		primary := redistest.Start(t, redistest.Args("--repl-diskless-sync-delay", "0"))
		host, port, err := net.SplitHostPort(primary.Addr)
		require.NoError(t, err)
		replica := redistest.Start(t, redistest.Args("--replicaof", host, port))
		s, c := newStore(t, config(replica.Addr)), plainClient(t, replica.Addr)
		require.Eventually(t, func() bool {
			return strings.Contains(c.Info(t.Context(), "replication").Val(), "master_link_status:up")
		}, patient, 5*time.Millisecond)
		// A cost above the capacity is a denial, which writes nothing: a replica could answer it, from stale data.
		r := ports.Take(t.Context(), s, take("a", 11, l))
		require.ErrorIs(t, r.Err, ports.ErrUnavailable)
		assert.ErrorContains(t, r.Err, "READONLY")
		assert.ErrorContains(t, r.Err, "not carried out")
		assert.ErrorContains(t, s.CheckHealth(t.Context())[0].Err, "READONLY")
	})
	t.Run("full server", func(t *testing.T) {
		server := redistest.Start(t, redistest.Args("--maxmemory-policy", "noeviction"))
		s, c := newStore(t, config(server.Addr)), plainClient(t, server.Addr)
		takeOne(t, s, "a", 1, l)
		require.NoError(t, c.ConfigSet(t.Context(), "maxmemory", "1").Err())
		r := ports.Take(t.Context(), s, take("a", 11, l))
		require.ErrorIs(t, r.Err, ports.ErrUnavailable)
		assert.ErrorContains(t, r.Err, "OOM")
		assert.ErrorContains(t, r.Err, "not carried out")
		require.NoError(t, c.ConfigSet(t.Context(), "maxmemory", "0").Err())
		assert.Equal(t, domain.Tokens(8), l.Remaining(takeOne(t, s, "a", 1, l).States[0]))
	})
}

// deadServers are addresses that fail in different ways.
func deadServers(t *testing.T) map[string]string {
	frozen := redistest.Start(t)
	frozen.Pause()
	return map[string]string{
		"refused":    redistest.Refusing(t),
		"frozen":     frozen.Addr,
		"blackholed": redistest.Blackhole(t),
	}
}

func TestTakeMany_theBudgetHoldsHoweverAServerIsDead(t *testing.T) {
	l := limit(t, "burst", "1/h", 10)
	for name, addr := range deadServers(t) {
		cfg := redisstore.DefaultConfig(addr)
		s := newStore(t, cfg)
		for attempt := range 25 { // past the pool's size, so that waiting for a connection counts, too
			start := time.Now()
			r := ports.Take(t.Context(), s, take("a", 1, l))
			took := time.Since(start)
			require.ErrorIs(t, r.Err, ports.ErrUnavailable, "%s, attempt %d", name, attempt)
			require.NotErrorIs(t, r.Err, ports.ErrCorrupt)
			require.Less(t, took, cfg.TakeTimeout+slack, "%s, attempt %d", name, attempt)
		}
		health := s.CheckHealth(t.Context())
		require.Len(t, health, 1)
		assert.Equal(t, "shard-0", health[0].Name)
		assert.ErrorIs(t, health[0].Err, ports.ErrUnavailable, name)
	}
}

func TestTakeMany_aDeadShardDoesNotFailTheOthers(t *testing.T) {
	_, alive := redistest.StartN(t, 2)
	l := limit(t, "burst", "1/h", 10)
	for name, dead := range deadServers(t) {
		cfg := redisstore.DefaultConfig(append([]string{dead}, alive...)...)
		cfg.TakeTimeout = time.Second // for the living shards of a busy machine
		s := newStore(t, cfg)
		require.Eventually(t, func() bool { // connected, whatever that takes on a busy machine
			health := s.CheckHealth(t.Context())
			return health[1].Err == nil && health[2].Err == nil
		}, patient, time.Millisecond)
		var reqs []ports.TakeRequest
		for i := range 30 {
			reqs = append(reqs, take(fmt.Sprintf("%s-%d", name, i), 1, l))
		}
		results := make([]ports.TakeResult, len(reqs))
		failed := 0
		s.TakeMany(t.Context(), reqs, results)
		for i, r := range results {
			if s.Manager().GetClient(string(reqs[i].Key)).Options().Addr == dead {
				require.ErrorIs(t, r.Err, ports.ErrUnavailable, "%s: slot %d", name, i)
				failed++
				continue
			}
			require.NoError(t, r.Err, "%s: slot %d", name, i)
		}
		assert.NotZero(t, failed)
		health := s.CheckHealth(t.Context())
		require.Error(t, health[0].Err, "%s", name)
		assert.NoError(t, health[1].Err)
	}
}

func TestTakeMany_afterAFailureTheShardIsAskedNoMoreInThatCall(t *testing.T) {
	s := newStore(t, config(redistest.Refusing(t)))
	reqs := make([]ports.TakeRequest, 3*script.MaxGroups)
	for i := range reqs {
		reqs[i] = take(strconv.Itoa(i), 1, limit(t, "burst", "1/h", 10))
	}
	results := make([]ports.TakeResult, len(reqs))
	start := time.Now()
	s.TakeMany(t.Context(), reqs, results)
	assert.Less(t, time.Since(start), patient/2, "no request waits for the budget")
	for i, r := range results {
		require.ErrorIs(t, r.Err, ports.ErrUnavailable, "slot %d", i)
		require.ErrorContains(t, r.Err, "refused", "slot %d has the cause", i)
	}
}

func TestTakeMany_aCancelledCallerLeavesAtOnce(t *testing.T) {
	server := redistest.Start(t)
	s := newStore(t, config(server.Addr))
	l := limit(t, "burst", "1/h", 10)
	takeOne(t, s, "a", 1, l)
	server.Pause()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	start := time.Now()
	r := ports.Take(ctx, s, take("a", 1, l))
	took := time.Since(start)
	server.Resume()
	require.ErrorIs(t, r.Err, ports.ErrUnavailable)
	require.ErrorIs(t, r.Err, context.Canceled)
	assert.Less(t, took, patient/4, "the budget is %v", patient)

	server.Pause()
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	r = ports.Take(ctx, s, take("a", 1, l))
	server.Resume()
	require.ErrorIs(t, r.Err, ports.ErrUnavailable)
	assert.ErrorIs(t, r.Err, context.DeadlineExceeded)
}

func TestStore_startsWithoutRedisAndRecovers(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	s := newStore(t, config(server.Addr))
	l := limit(t, "burst", "1/h", 10)
	require.ErrorIs(t, ports.Take(t.Context(), s, take("a", 1, l)).Err, ports.ErrUnavailable)
	server.Restart()
	require.Eventually(t, func() bool { return s.CheckHealth(t.Context())[0].Err == nil }, patient, 5*time.Millisecond)
	takeOne(t, s, "a", 1, l)
	server.Kill()
	require.ErrorIs(t, ports.Take(t.Context(), s, take("a", 1, l)).Err, ports.ErrUnavailable)
	server.Restart()
	require.Eventually(t, func() bool { return s.CheckHealth(t.Context())[0].Err == nil }, patient, 5*time.Millisecond)
	assert.Equal(t, domain.Tokens(9), l.Remaining(takeOne(t, s, "a", 1, l).States[0]), "Redis kept nothing: a full bucket")
}

func TestCheckHealth_leavesNothingBehind(t *testing.T) {
	server := redistest.Start(t)
	s, c := newStore(t, config(server.Addr)), plainClient(t, server.Addr)
	for range 3 {
		require.NoError(t, s.CheckHealth(t.Context())[0].Err)
	}
	assert.Eventually(t, func() bool { return c.DBSize(t.Context()).Val() == 0 }, patient, time.Millisecond)
}

func TestStore_closedIsUnavailable(t *testing.T) {
	s := newStore(t, config(redistest.Start(t).Addr))
	require.NoError(t, s.Close())
	r := ports.Take(t.Context(), s, take("a", 1, limit(t, "burst", "1/h", 10)))
	require.ErrorIs(t, r.Err, ports.ErrUnavailable)
	assert.ErrorContains(t, r.Err, "not carried out")
}
