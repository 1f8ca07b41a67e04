package script_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// clockLine is the line of the shipped script that reads the clock. Tests replace it, and nothing else.
const clockLine = "local time = call('TIME'); local now_us = time[1] * 1000000 + time[2]"

// sourceWithArgumentClock is the script that takes the time from an argument after its own.
var sourceWithArgumentClock = withClock("local now_us = tonumber(table.remove(ARGV))")

func withClock(line string) string { return strings.Replace(script.Source, clockLine, line, 1) }

// store decides by a script on one server.
type store struct {
	*script.Script
	client *redis.Client
}

func (s store) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	groups := groupsOf(reqs, nil)
	err := s.Decide(ctx, s.client, "server", groups, domain.InstantOf(time.Now()))
	for i, g := range groups {
		results[i] = g.Result
		if err != nil {
			results[i] = ports.TakeResult{Err: err}
		}
	}
}

// encode is the command that decides all of reqs in one run of the script of that source, with the periods at now.
func encode(source string, reqs []ports.TakeRequest, now domain.Instant) []any {
	return script.NewCommand().Encode(script.New(source), false, groupsOf(reqs, nil), now)
}

// decodeReply decodes the reply to what encode made.
func decodeReply(reply any, reqs []ports.TakeRequest, results []ports.TakeResult) error {
	groups := groupsOf(reqs, results)
	err := script.DecodeReply(reply, groups)
	for i, g := range groups {
		results[i] = g.Result
	}
	return err
}

func groupsOf(reqs []ports.TakeRequest, results []ports.TakeResult) []*script.Group {
	groups := make([]*script.Group, len(reqs))
	for i := range groups {
		groups[i] = &script.Group{Request: reqs[i]}
		if results != nil {
			groups[i].Result = results[i]
		}
	}
	return groups
}

// plainClient is a client of the test's own.
func plainClient(t testing.TB, addr string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, Protocol: 2, ReadTimeout: time.Minute, PipelinePoolSize: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func limit(t testing.TB, name, rate string, capacity domain.Tokens) domain.Limit {
	t.Helper()
	refill, per, err := domain.ParseRate(rate)
	require.NoError(t, err)
	l, err := domain.NewBucket(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}

// quota is a quota; periods are "day", "month in Europe/Berlin", "month in UTC from 2026-01-15".
func quota(t testing.TB, name string, tokens domain.Tokens, periods string) domain.Limit {
	t.Helper()
	rest, anchor, _ := strings.Cut(periods, " from ")
	period, zone, _ := strings.Cut(rest, " in ")
	schedule, err := calendar.Parse(period, zone, anchor)
	require.NoError(t, err)
	l, err := domain.NewQuota(name, tokens, schedule)
	require.NoError(t, err)
	return l
}

// concurrency is a limit of permits.
func concurrency(t testing.TB, name string, permits domain.Tokens, lease time.Duration) domain.Limit {
	t.Helper()
	l, err := domain.NewConcurrency(name, permits, lease)
	require.NoError(t, err)
	return l
}

// withCost is the limit with a cost of its own.
func withCost(t testing.TB, l domain.Limit, cost domain.Tokens) domain.Limit {
	t.Helper()
	l, err := l.WithCost(cost)
	require.NoError(t, err)
	return l
}

func key(client string) clientkey.BucketKey {
	return clientkey.NewBucketKey("test", clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client"}, client)
}

func take(client string, cost domain.Tokens, limits ...domain.Limit) ports.TakeRequest {
	return ports.TakeRequest{Op: domain.OpTake, Key: key(client), Limits: limits, Cost: cost}
}

// takeOne is one take that must be decided.
func takeOne(t testing.TB, s ports.BucketStore, client string, cost domain.Tokens, limits ...domain.Limit) ports.TakeResult {
	t.Helper()
	r := ports.Take(t.Context(), s, take(client, cost, limits...))
	require.NoError(t, r.Err)
	return r
}

// level is the stored value of the limit, split; it fails the test if there is none.
func level(t testing.TB, c *redis.Client, client, limitName string) string {
	t.Helper()
	v, err := c.HGet(t.Context(), script.RedisKey(key(client)), "b:"+limitName).Result()
	require.NoError(t, err)
	return v
}
