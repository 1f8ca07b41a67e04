package redisstore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
	limits := []domain.Limit{limit(t, "burst", "1/h", 10), limit(t, "daily", "1/24h", 10)}
	for op := domain.OpTake; op <= domain.OpReset; op++ {
		for n := range limits {
			r := ports.Take(t.Context(), s, ports.TakeRequest{Op: op, Key: key("a"), Limits: limits[:n+1], Cost: 1})
			assert.NoError(t, r.Err, "%v of %d", op, n+1)
		}
	}
}

func TestACL_aMissingCommandIsFoundByTheProbe(t *testing.T) {
	for i, missing := range limiterACL {
		if missing == "-@all" || missing == "+eval" || missing == "+hdel" {
			continue // the probe takes, and eval is for a server that does not know the script
		}
		rules := append(append([]string{}, limiterACL[:i]...), limiterACL[i+1:]...)
		server := redistest.Start(t, withUser(rules...))
		cfg := config(server.Addr)
		cfg.Username, cfg.Password = "limiter", password
		err := newStore(t, cfg).CheckHealth(t.Context())[0].Err
		require.ErrorIs(t, err, ports.ErrUnavailable, "without %s", missing)
		assert.NotContains(t, err.Error(), password)
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
