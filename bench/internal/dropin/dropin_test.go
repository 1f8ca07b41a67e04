// Package dropin holds Velocity's gRPC door against envoyproxy/ratelimit itself: the same files, the same calls.
package dropin

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
	"github.com/velocity-limiter/velocity/bench/internal/service"
)

const rules = `---
domain: dropin
descriptors:
  - key: source
    value: proxy
    descriptors:
      - key: destination
        value: mock
        rate_limit: {unit: day, requests_per_unit: 1}
  - key: foo
    rate_limit: {unit: hour, requests_per_unit: 2}
    descriptors:
      - {key: bar, rate_limit: {unit: day, requests_per_unit: 3}}
      - {key: bar, value: banned, rate_limit: {unit: day, requests_per_unit: 0}}
      - {key: baz, rate_limit: {unit: day, requests_per_unit: 1}}
      - {key: baz, value: shady, rate_limit: {unit: day, requests_per_unit: 1}, shadow_mode: true}
      - {key: bay, rate_limit: {unlimited: true}}
  - key: qux
    rate_limit: {unlimited: true}
  - key: path
    value: /api/*
    detailed_metric: true
    rate_limit: {unit: day, requests_per_unit: 2}
  - key: path
    value: /api/v1/*
    rate_limit: {unit: day, requests_per_unit: 5}
  - key: path
    value: /api/v1/exact
    rate_limit: {unit: day, requests_per_unit: 4}
  - key: file
    value: a*
    share_threshold: true
    rate_limit: {unit: day, requests_per_unit: 3}
  - key: read
    rate_limit: {unit: day, requests_per_unit: 2, name: category}
  - key: special
    rate_limit: {unit: day, requests_per_unit: 4, replaces: [{name: category}]}
  - key: nothing
  - key: tick
    rate_limit: {unit: second, requests_per_unit: 5}
`

// pair is both services, each with a Redis of its own.
type pair struct {
	t            *testing.T
	theirs, ours rlsv3.RateLimitServiceClient
}

func start(t *testing.T) *pair {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 7*time.Minute)
	defer cancel()
	binaries, err := service.Build(ctx, t.TempDir())
	require.NoError(t, err)
	redis := func() *redisserver.Server {
		server, err := redisserver.Start(ctx, "")
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, server.Close()) })
		return server
	}
	client := func(s *service.Service, err error) rlsv3.RateLimitServiceClient {
		require.NoError(t, err)
		conn, err := grpc.NewClient(s.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		t.Cleanup(func() {
			_ = conn.Close()
			assert.NoError(t, s.Stop())
		})
		return rlsv3.NewRateLimitServiceClient(conn)
	}
	return &pair{
		t:      t,
		theirs: client(binaries.StartEnvoyRatelimit(ctx, redis().Addr, service.EnvoyOptions{Rules: rules})),
		ours: client(binaries.StartVelocityForEnvoy(ctx, rules, "VELOCITY_REDIS_ADDRS="+redis().Addr,
			"VELOCITY_TAKE_TIMEOUT=10s", "VELOCITY_ON_STORE_FAILURE=closed")),
	}
}

// request asks for descriptors, each "key=value, key=value"; hits of 0 is the protocol's one.
func request(hits uint32, descriptors ...string) *rlsv3.RateLimitRequest {
	r := &rlsv3.RateLimitRequest{Domain: "dropin", HitsAddend: hits}
	for _, text := range descriptors {
		d := &ratelimitv3.RateLimitDescriptor{}
		for part := range strings.SplitSeq(text, ", ") {
			key, value, _ := strings.Cut(part, "=")
			d.Entries = append(d.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
		}
		r.Descriptors = append(r.Descriptors, d)
	}
	return r
}

// verdict is what a proxy and its operator see: the codes, the limit that applies and what is left of it.
func verdict(t *testing.T, c rlsv3.RateLimitServiceClient, r *rlsv3.RateLimitRequest) string {
	t.Helper()
	response, err := c.ShouldRateLimit(t.Context(), r)
	if err != nil {
		return status.Convert(err).Code().String() + ": " + status.Convert(err).Message()
	}
	text := response.GetOverallCode().String()
	for _, s := range response.GetStatuses() {
		text += fmt.Sprintf("; %v %d/%v %s, %d left", s.GetCode(), s.GetCurrentLimit().GetRequestsPerUnit(),
			s.GetCurrentLimit().GetUnit(), s.GetCurrentLimit().GetName(), s.GetLimitRemaining())
	}
	return text
}

// same sends a request to both.
func (p *pair) same(r *rlsv3.RateLimitRequest) {
	p.t.Helper()
	assert.Equal(p.t, verdict(p.t, p.theirs, r), verdict(p.t, p.ours, r), "%v", r)
}

func TestDropIn(t *testing.T) {
	p := start(t)
	t.Run("one descriptor", p.oneDescriptor)
	t.Run("hits", p.hits)
	t.Run("replaces", p.replaces)
	t.Run("refusals", p.refusals)
	t.Run("all or nothing", p.allOrNothing)
	t.Run("steady refill", p.steadyRefill)
}

// apart returns a suffix that keeps one round's buckets from another's.
func apart(round int) string { return fmt.Sprintf("round-%d", round) }

// withinOneHour runs what compares hourly windows, again if the hour ended meanwhile: theirs start anew then.
func withinOneHour(t *testing.T, run func(round int)) {
	t.Helper()
	for round := range 3 {
		end := time.Now().Truncate(time.Hour).Add(time.Hour)
		if time.Until(end) < time.Minute {
			time.Sleep(time.Until(end))
			end = end.Add(time.Hour)
		}
		if run(round); time.Now().Before(end) {
			return
		}
	}
	require.Fail(t, "the hour ended in each round")
}

// Calls of one descriptor under hour and day limits get the same codes.
func (p *pair) oneDescriptor(t *testing.T) {
	p = &pair{t, p.theirs, p.ours}
	withinOneHour(t, func(round int) {
		x := apart(round)
		for _, descriptor := range []string{
			"source=proxy, destination=mock", "source=proxy, destination=" + x, "source=proxy", "foo=" + x,
			"foo=" + x + ", bar=2", "foo=" + x + ", bar=banned", "foo=" + x + ", baz=2", "foo=" + x + ", baz=shady",
			"foo=" + x + ", bay=1", "foo=" + x + ", bar=2, baz=3", "bar=" + x, "qux=" + x, "qux=",
			"path=/api/" + x, "path=/api/v1/" + x, "path=/api/v1/exact", "path=/other", "nothing=" + x, "foo=",
			"file=a" + x, "file=ab" + x, "file=b" + x,
		} {
			for range 6 {
				p.same(request(0, descriptor))
			}
		}
	})
}

func (p *pair) hits(t *testing.T) {
	p = &pair{t, p.theirs, p.ours}
	for _, hits := range []uint32{1, 0, 1} {
		p.same(request(hits, "foo=hits, bar=x"))
	}
	look := request(0, "foo=hits, bar=y")
	look.Descriptors[0].HitsAddend = wrapperspb.UInt64(0)
	p.same(look)
	own := request(7, "foo=hits, bar=y")
	own.Descriptors[0].HitsAddend = wrapperspb.UInt64(2)
	p.same(own)
	p.same(look)
	elsewhere := request(0, "foo=hits")
	elsewhere.Domain = "elsewhere"
	p.same(elsewhere)
}

func (p *pair) replaces(t *testing.T) {
	p = &pair{t, p.theirs, p.ours}
	for range 3 {
		p.same(request(0, "read=r", "special=s"))
	}
	p.same(request(0, "read=r"))
}

func (p *pair) refusals(t *testing.T) {
	p = &pair{t, p.theirs, p.ours}
	p.same(&rlsv3.RateLimitRequest{Descriptors: request(0, "foo=1").Descriptors})
	p.same(&rlsv3.RateLimitRequest{Domain: "dropin"})
}

// Where several descriptors are asked for, they differ: theirs counts a denied request against those that would have
// allowed it.
func (p *pair) allOrNothing(t *testing.T) {
	const denied, other = "foo=aon, baz=1", "foo=aon, bar=1"
	for name, c := range map[string]struct {
		client rlsv3.RateLimitServiceClient
		left   string
	}{
		"envoyproxy/ratelimit": {p.theirs, "OVER_LIMIT; OVER_LIMIT 3/DAY , 0 left"},
		"Velocity":             {p.ours, "OK; OK 3/DAY , 2 left"},
	} {
		assert.Equal(t, "OK; OK 1/DAY , 0 left", verdict(t, c.client, request(0, denied)), name)
		for range 3 {
			assert.Contains(t, verdict(t, c.client, request(0, denied, other)), "OVER_LIMIT; OVER_LIMIT 1/DAY , 0 left; OK", name)
		}
		assert.Equal(t, c.left, verdict(t, c.client, request(0, other)), name)
	}
}

// At the edge of a window theirs lets pass a whole limit before and a whole one after; a bucket holds one, and what came
// back since.
func (p *pair) steadyRefill(t *testing.T) {
	for round := range 20 {
		edge := time.Now().Truncate(time.Second).Add(2 * time.Second)
		passed := map[string]int{}
		burst := func() {
			for name, client := range map[string]rlsv3.RateLimitServiceClient{"theirs": p.theirs, "ours": p.ours} {
				for range 5 {
					if strings.HasPrefix(verdict(t, client, request(0, "tick="+apart(round))), "OK") {
						passed[name]++
					}
				}
			}
		}
		time.Sleep(time.Until(edge.Add(-200 * time.Millisecond)))
		before := time.Now()
		burst()
		ended := time.Now()
		time.Sleep(time.Until(edge.Add(50 * time.Millisecond)))
		burst()
		if took := time.Since(before); ended.After(edge) || took > 700*time.Millisecond {
			continue // the machine was too slow to be at the edge
		}
		assert.Equal(t, 10, passed["theirs"])
		assert.LessOrEqual(t, passed["ours"], 5+4) // 0.7 s bring back 3.5
		return
	}
	require.Fail(t, "the machine was too slow in each round")
}
