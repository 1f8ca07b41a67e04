// Package compatibility compares Velocity's gRPC interface with envoyproxy/ratelimit: the same files, the same calls.
package compatibility

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
domain: compatibility
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
  - {key: minute, rate_limit: {unit: minute, requests_per_unit: 3}}
  - {key: hour, rate_limit: {unit: hour, requests_per_unit: 20}}
  - {key: day, rate_limit: {unit: day, requests_per_unit: 20}}
  - {key: week, rate_limit: {unit: week, requests_per_unit: 20}}
  - {key: month, rate_limit: {unit: month, requests_per_unit: 20}}
  - {key: year, rate_limit: {unit: year, requests_per_unit: 20}}
`

// pair is both services, each with a Redis of its own.
type pair struct {
	t            *testing.T
	theirs, ours rlsv3.RateLimitServiceClient
}

// start starts both services, and Velocity once more with quotas.
func start(t *testing.T) (buckets, quotas *pair) {
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
	velocity := func(limits string) rlsv3.RateLimitServiceClient {
		return client(binaries.StartVelocityForEnvoy(ctx, rules, "VELOCITY_REDIS_ADDRS="+redis().Addr,
			"VELOCITY_ENVOY_LIMITS="+limits, "VELOCITY_TAKE_TIMEOUT=10s", "VELOCITY_ON_STORE_FAILURE=closed"))
	}
	theirs := client(binaries.StartEnvoyRatelimit(ctx, redis().Addr, service.EnvoyOptions{Rules: rules}))
	return &pair{t, theirs, velocity("bucket")}, &pair{t, theirs, velocity("quota")}
}

// request asks for descriptors, each "key=value, key=value". hits 0 means 1, as in the protocol.
func request(hits uint32, descriptors ...string) *rlsv3.RateLimitRequest {
	r := &rlsv3.RateLimitRequest{Domain: "compatibility", HitsAddend: hits}
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

// verdict returns what a proxy and its operator see: the codes, the limit that applies and what is left of it.
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

func TestCompatibility(t *testing.T) {
	p, quotas := start(t)
	t.Run("one descriptor", p.oneDescriptor)
	t.Run("hits", p.hits)
	t.Run("replaces", p.replaces)
	t.Run("refusals", p.refusals)
	t.Run("all or nothing", p.allOrNothing)
	t.Run("steady refill", p.steadyRefill)
	t.Run("quotas", func(t *testing.T) {
		t.Run("one descriptor", quotas.thousandCalls)
		t.Run("minutes", quotas.minutes)
		t.Run("windows", quotas.windows)
		t.Run("a denial takes nothing", quotas.denialTakesNothing)
		t.Run("all or nothing", quotas.allOrNothing)
	})
}

// apart returns a suffix that separates the buckets of one round from those of another.
func apart(round int) string { return fmt.Sprintf("round-%d", round) }

// within runs a test that compares windows of a length, and repeats it if a window ended meanwhile. It does not begin shortly
// before the end of a window.
func within(t *testing.T, window time.Duration, run func(round int)) {
	t.Helper()
	for round := range 3 {
		end := time.Now().Truncate(window).Add(window)
		if left := time.Until(end); left < min(window/10, time.Minute) {
			time.Sleep(left)
			end = end.Add(window)
		}
		if run(round); time.Now().Before(end) {
			return
		}
	}
	require.Fail(t, "the window ended in each round")
}

// Calls of one descriptor under hour and day limits get the same codes.
func (p *pair) oneDescriptor(t *testing.T) {
	p = &pair{t, p.theirs, p.ours}
	within(t, time.Hour, func(round int) {
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
	p.same(&rlsv3.RateLimitRequest{Domain: "compatibility"})
}

// With several descriptors the two services differ: theirs counts a denied request against descriptors that would have
// allowed it.
func (p *pair) allOrNothing(t *testing.T) {
	denied, other := "foo="+t.Name()+", baz=1", "foo="+t.Name()+", bar=1"
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

// At the edge of a window theirs allows a whole limit before it and a whole limit after it. A bucket allows one limit, and
// what was refilled since.
func (p *pair) steadyRefill(t *testing.T) {
	theirs, ours := p.aroundTheEdge(t)
	assert.Equal(t, 10, theirs)
	assert.LessOrEqual(t, ours, 5+4) // 0.7 s bring back 3.5
}

// aroundTheEdge asks both services, within 0.7 s, just before and just after the end of a second, each time for more than a
// limit of 5 allows. It returns how many calls pass.
func (p *pair) aroundTheEdge(t *testing.T) (theirs, ours int) {
	for round := range 20 {
		edge := time.Now().Truncate(time.Second).Add(2 * time.Second)
		theirs, ours = 0, 0
		burst := func() {
			r := request(0, "tick="+t.Name()+apart(round))
			for range 6 {
				if strings.HasPrefix(verdict(t, p.theirs, r), "OK") {
					theirs++
				}
				if strings.HasPrefix(verdict(t, p.ours, r), "OK") {
					ours++
				}
			}
		}
		time.Sleep(time.Until(edge.Add(-200 * time.Millisecond)))
		before := time.Now()
		burst()
		ended := time.Now()
		time.Sleep(time.Until(edge.Add(50 * time.Millisecond)))
		burst()
		if took := time.Since(before); ended.Before(edge) && took <= 700*time.Millisecond {
			return theirs, ours
		}
	}
	require.Fail(t, "the machine was too slow in each round")
	return 0, 0
}
