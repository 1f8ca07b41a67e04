package redisstore

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
)

// What black-box tests need of the insides.

const (
	// ClockLine is the line of the shipped script that reads the clock. Tests replace it, and nothing else.
	ClockLine = "local time = call('TIME'); local now_us = time[1] * 1000000 + time[2]"
	// ClockKey holds the time for a store made by NewWithClockKey.
	ClockKey = "test:clock"
)

// NewWithClockKey makes a store whose script takes the time from a key of each server.
func NewWithClockKey(cfg Config) (*Store, error) {
	return newStore(cfg, script.New(withClock("local now_us = tonumber(call('GET', '"+ClockKey+"'))")))
}

// WithConnLifetime returns the configuration with connections that last for that time at most.
func WithConnLifetime(cfg Config, d time.Duration) Config {
	cfg.connLifetime = d
	return cfg
}

// WithSeparateRequests returns the configuration of a store in which each request is a group of its own, though others equal it.
func WithSeparateRequests(cfg Config) Config {
	cfg.separate = true
	return cfg
}

func withClock(line string) string { return strings.Replace(script.Source, ClockLine, line, 1) }

// LeaveDeadConnection puts a connection that could not be made into the pool of a client that is not used elsewhere.
func LeaveDeadConnection(t testing.TB, c *redis.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	slow := slowDial{cancel}
	c.AddHook(slow)
	if err := c.Ping(ctx).Err(); !errors.Is(err, context.Canceled) {
		t.Fatalf("the call was to be left: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); c.PoolStats().IdleConns == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no connection was left")
		}
	}
}

// slowDial leaves the call before its attempt to connect ends.
type slowDial struct{ leave context.CancelFunc }

func (d slowDial) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d.leave()
		time.Sleep(20 * time.Millisecond)
		return next(ctx, network, addr)
	}
}
func (slowDial) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (slowDial) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Hash and Mix64 are what routing uses.
var (
	Hash  = hash
	Mix64 = mix64
)

// Route returns the index of the identity that owns text.
func Route(s Strategy, text string, identities []string) int {
	seeds := make([]uint64, len(identities))
	for i, id := range identities {
		seeds[i] = hash(id)
	}
	return s.route(text, seeds)
}

// ParseAddress returns the identity and the host:port of an entry of the shard list.
func ParseAddress(entry string) (identity, hostPort string, err error) {
	a, wrong := parseAddress(entry)
	if wrong != nil {
		return "", "", errors.New(wrong.value("entry") + ": " + wrong.reason)
	}
	return a.identity(), a.hostPort, nil
}
