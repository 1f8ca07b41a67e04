package redisstore_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const password = "correct-horse-battery"

// limiterACL is the least that the store needs: what README tells operators to grant.
var limiterACL = []string{
	"~velocity:*", "-@all", "+evalsha", "+eval", "+time", "+hget", "+hmget", "+hset", "+hdel", "+pexpireat",
}

func withUser(rules ...string) redistest.Option {
	args := append([]string{"--user", "limiter", "on", ">" + password}, rules...)
	return redistest.Args(args...)
}

func TestACL_ourCommandsAndKeysAreEnough(t *testing.T) {
	server := redistest.Start(t, withUser(limiterACL...))
	cfg := config(server.Addr)
	cfg.Username, cfg.Password = "limiter", password
	s := newStore(t, cfg)
	require.NoError(t, s.CheckHealth(t.Context())[0].Err)
	require.NoError(t, s.CheckPermissions(t.Context())[0].Err)
	limits := []domain.Limit{limit(t, "burst", "1/h", 10), limit(t, "daily", "1/24h", 10)}
	for op := domain.OpTake; op <= domain.OpReset; op++ {
		for n := range limits {
			r := ports.Take(t.Context(), s, ports.TakeRequest{Op: op, Key: key("a"), Limits: limits[:n+1], Cost: 1})
			assert.NoError(t, r.Err, "%v of %d", op, n+1)
		}
	}
}

func TestACL_aMissingCommandIsNamed(t *testing.T) {
	for i, missing := range limiterACL {
		if missing == "-@all" {
			continue
		}
		rules := append(append([]string{}, limiterACL[:i]...), limiterACL[i+1:]...)
		server := redistest.Start(t, withUser(rules...))
		cfg := config(server.Addr)
		cfg.Username, cfg.Password = "limiter", password
		s := newStore(t, cfg)
		told := make(chan redisstore.BreakerChange, 1)
		s.Manager().OnBreaker(func(c redisstore.BreakerChange) { told <- c })
		lacks := strings.TrimPrefix(missing, "+")
		if missing == "~velocity:*" {
			lacks = "key"
		}
		health := s.CheckPermissions(t.Context())
		require.Len(t, health, 1)
		assert.Equal(t, "shard-0", health[0].Name)
		require.ErrorIs(t, health[0].Err, redisstore.ErrPermissions, "without %s", missing)
		assert.ErrorContains(t, health[0].Err, lacks)
		if missing == "+eval" || missing == "+hdel" {
			continue // the probe takes, and eval is for a server that does not know the script
		}
		for range 5 {
			require.ErrorIs(t, s.CheckHealth(t.Context())[0].Err, ports.ErrUnavailable, "without %s", missing)
		}
		if missing == "+hget" || missing == "+hmget" {
			require.Equal(t, ports.BreakerClosed, s.Stats()[0].Breaker, "groups of several limits, or of one, are decided")
			continue
		}
		change := <-told
		assert.Equal(t, ports.FailureNoPerm, change.Kind, "without %s", missing)
		assert.ErrorContains(t, change.Cause, lacks)
		assert.NotContains(t, change.Cause.Error(), password)
	}
}

// What is refused for want of a permission has not been debited.
func TestACL_aMissingCommandCostsNobodyAToken(t *testing.T) {
	one, two := limit(t, "burst", "1/h", 10), limit(t, "daily", "1/24h", 10)
	for _, missing := range []string{"-hset", "-pexpireat"} {
		server := redistest.Start(t, withUser(limiterACL...))
		admin := plainClient(t, server.Addr)
		cfg := config(server.Addr)
		cfg.Username, cfg.Password = "limiter", password
		s := newStore(t, cfg)
		old := takeOne(t, s, "old", 1, one, two) // soon enough its expiry must be put off
		require.NoError(t, admin.Persist(t.Context(), redisstore.RedisKey(key("old"))).Err())
		require.NoError(t, admin.HSet(t.Context(), redisstore.RedisKey(key("old")), "b:burst",
			fmt.Sprintf("%d:%d:%d", old.Buckets[0].Credits, old.Now, one.TokenCredits())).Err()) // without a note
		before := levels(t, s, "old", one, two)

		require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "limiter", missing).Err())
		for name, limits := range map[string][]domain.Limit{"new": {one}, "new, of two": {one, two}, "old": {one, two}} {
			r := ports.Take(t.Context(), s, take(name, 1, limits...))
			require.ErrorIs(t, r.Err, ports.ErrUnavailable, "%s: %s", missing, name)
			assert.ErrorContains(t, r.Err, "can't run this command", "%s: %s", missing, name)
		}
		require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "limiter", "+"+missing[1:]).Err())
		assert.Equal(t, before, levels(t, s, "old", one, two), missing)
		keys, err := admin.Keys(t.Context(), "*").Result()
		require.NoError(t, err)
		assert.Equal(t, []string{redisstore.RedisKey(key("old"))}, keys, "%s: nothing was written", missing)
	}
}

// levels is how many whole tokens a client has left.
func levels(t *testing.T, s *redisstore.Store, name string, limits ...domain.Limit) []domain.Tokens {
	t.Helper()
	r := takeOne(t, s, name, 0, limits...)
	out := make([]domain.Tokens, len(limits))
	for i := range limits {
		out[i] = limits[i].Remaining(r.Buckets[i])
	}
	return out
}

func TestACL_theCanaryKnowsEveryCommandOfTheScript(t *testing.T) {
	for _, call := range regexp.MustCompile(`call\('([A-Z]+)'`).FindAllStringSubmatch(redisstore.TakeSource(), -1) {
		assert.Contains(t, redisstore.CanarySource(), "{'"+strings.ToLower(call[1])+"'")
	}
}

func TestACL_aWrongPasswordIsNotShown(t *testing.T) {
	server := redistest.Start(t, withUser(limiterACL...))
	cfg := config(server.Addr)
	cfg.Username, cfg.Password = "limiter", "wrong-"+password
	r := ports.Take(t.Context(), newStore(t, cfg), take("a", 1, limit(t, "burst", "1/h", 10)))
	require.ErrorIs(t, r.Err, ports.ErrUnavailable)
	assert.ErrorContains(t, r.Err, "WRONGPASS")
	assert.ErrorContains(t, r.Err, "not carried out")
	assert.NotContains(t, r.Err.Error(), password)
}

func TestTLS(t *testing.T) {
	caFile, certFile, keyFile := redistest.Certificates(t)
	otherCA, _, _ := redistest.Certificates(t)
	server := redistest.Start(t, redistest.TLS(certFile, keyFile, caFile))
	l := limit(t, "burst", "1/h", 10)

	cfg := config(server.Addr)
	cfg.TLS, cfg.TLSCAFile = true, caFile
	s := newStore(t, cfg)
	require.NoError(t, s.CheckHealth(t.Context())[0].Err)
	assert.Equal(t, domain.Tokens(9), l.Remaining(takeOne(t, s, "a", 1, l).Buckets[0]))

	cfg.TLSServerName = "redis.test"
	takeOne(t, newStore(t, cfg), "a", 1, l)

	cfg.TLSServerName = "elsewhere.test"
	r := ports.Take(t.Context(), newStore(t, cfg), take("a", 1, l))
	require.ErrorIs(t, r.Err, ports.ErrUnavailable, "a certificate for another name")
	assert.ErrorContains(t, r.Err, "not carried out")

	cfg.TLSServerName, cfg.TLSCAFile = "", otherCA
	r = ports.Take(t.Context(), newStore(t, cfg), take("a", 1, l))
	require.ErrorIs(t, r.Err, ports.ErrUnavailable, "a certificate that nobody we trust has signed")

	r = ports.Take(t.Context(), newStore(t, config(server.Addr)), take("a", 1, l))
	require.ErrorIs(t, r.Err, ports.ErrUnavailable, "without TLS")
}
