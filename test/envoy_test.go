package test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// envoy sends what Envoy sends to the rate limit service of a process.
type envoy struct {
	t      *testing.T
	rls    rlsv3.RateLimitServiceClient
	health healthv1.HealthClient
}

// startEnvoyService runs the service with the gRPC listener on a new Redis. It fails closed, so that only Redis allows.
func startEnvoyService(t *testing.T, vars harness.Settings) (*harness.Process, *envoy) {
	t.Helper()
	all := harness.Settings{
		"VELOCITY_GRPC_ADDR": "127.0.0.1:0", "REDIS_ADDR": redistest.Start(t).Addr,
		"VELOCITY_TAKE_TIMEOUT": "20s", "VELOCITY_ON_STORE_FAILURE": "closed",
	}
	for name, value := range vars {
		all[name] = value
	}
	p := harness.Start(t, all)
	line := p.LogLines("Envoy's rate limit service")
	require.Len(t, line, 1)
	conn, err := grpc.NewClient(line[0]["grpcAddr"].(string), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return p, &envoy{t, rlsv3.NewRateLimitServiceClient(conn), healthv1.NewHealthClient(conn)}
}

// limit sends descriptors, each "key=value, key=value", and returns the overall code, then that of each.
func (e *envoy) limit(domain string, descriptors ...string) (string, error) {
	r := &rlsv3.RateLimitRequest{Domain: domain}
	for _, text := range descriptors {
		d := &ratelimitv3.RateLimitDescriptor{}
		for part := range strings.SplitSeq(text, ", ") {
			key, value, _ := strings.Cut(part, "=")
			d.Entries = append(d.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
		}
		r.Descriptors = append(r.Descriptors, d)
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), harness.Timeout)
	defer cancel()
	response, err := e.rls.ShouldRateLimit(ctx, r)
	text := response.GetOverallCode().String() + ":"
	for _, s := range response.GetStatuses() {
		text += " " + s.GetCode().String()
	}
	return text, err
}

func (e *envoy) mustLimit(domain string, descriptors ...string) string {
	e.t.Helper()
	codes, err := e.limit(domain, descriptors...)
	require.NoError(e.t, err)
	return codes
}

// Concurrent callers share the buckets of the rules of an envoyproxy/ratelimit file exactly, or their quotas. What one
// descriptor denies is returned to the bucket of the other.
func TestEnvoy_rulesLimitExactly(t *testing.T) {
	t.Run("buckets", func(t *testing.T) { rulesLimitExactly(t, harness.Settings{}) })
	t.Run("quotas", func(t *testing.T) { rulesLimitExactly(t, harness.Settings{"VELOCITY_ENVOY_LIMITS": "quota"}) })
	t.Run("quotas in memory", func(t *testing.T) {
		rulesLimitExactly(t, harness.Settings{"VELOCITY_ENVOY_LIMITS": "quota", "VELOCITY_STORE": "memory"})
	})
}

func rulesLimitExactly(t *testing.T, vars harness.Settings) {
	const callers, rounds = 20, 15
	vars["VELOCITY_ENVOY_CONFIG"] = harness.WriteFile(t, "rules.yaml", `
domain: edge
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 100}}
  - {key: tenant, rate_limit: {unit: year, requests_per_unit: 50}}
  - {key: path, value: /files/*, share_threshold: true, rate_limit: {unit: year, requests_per_unit: 7}}
`)
	_, e := startEnvoyService(t, vars)
	var (
		start, wg sync.WaitGroup
		passed    atomic.Int64
	)
	start.Add(1)
	for range callers {
		wg.Go(func() {
			start.Wait()
			for range rounds {
				codes, err := e.limit("edge", "user=alice", "tenant=acme")
				if assert.NoError(t, err) && codes == "OK: OK OK" {
					passed.Add(1)
				}
			}
		})
	}
	start.Done()
	wg.Wait()
	// A request that will be denied holds tokens of the first bucket for a moment, in which another one may be denied. So
	// up to 50 may have passed; single requests get the rest.
	for passed.Load() < 50 && e.mustLimit("edge", "user=alice", "tenant=acme") == "OK: OK OK" {
		passed.Add(1)
	}
	assert.EqualValues(t, 50, passed.Load())
	left := 0
	for e.mustLimit("edge", "user=alice") == "OK: OK" {
		left++
	}
	assert.Equal(t, 50, left, "what was denied for the tenant was not taken from the user")

	shared := 0
	for _, file := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"} {
		if e.mustLimit("edge", "path=/files/"+file) == "OK: OK" {
			shared++
		}
	}
	assert.Equal(t, 7, shared, "one bucket for all values of the wildcard")
	assert.Equal(t, "OK: OK", e.mustLimit("edge", "stranger=x"))
	assert.Equal(t, "OK: OK", e.mustLimit("elsewhere", "user=alice"))
}

// A quota is there again when the next window of the clock begins. Within a window nothing comes back.
func TestEnvoy_quotasFollowTheClock(t *testing.T) {
	p, e := startEnvoyService(t, harness.Settings{
		"VELOCITY_ENVOY_LIMITS": "quota", "VELOCITY_STORE": "memory", "VELOCITY_ENVOY_CONFIG": harness.WriteFile(t, "rules.yaml",
			"{domain: edge, descriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 5}}]}"),
	})
	assert.Equal(t, "quota", p.LogLines("Envoy's rate limit service")[0]["limits"])
	total := 0
	for range 20 {
		window := time.Now().Truncate(time.Second).Add(time.Second)
		passed := []int{}
		for _, at := range []time.Duration{0, 700 * time.Millisecond, time.Second} {
			time.Sleep(time.Until(window.Add(at + time.Millisecond)))
			n := 0
			for range 8 {
				if e.mustLimit("edge", "user=alice") == "OK: OK" {
					n++
				}
			}
			if time.Now().Truncate(time.Second).Equal(window.Add(at).Truncate(time.Second)) {
				passed = append(passed, n)
			}
			total += n
		}
		if len(passed) == 3 { // else the machine was too slow, and windows ended meanwhile
			assert.Equal(t, []int{5, 0, 5}, passed)
			assert.InDelta(t, total, p.Metric("velocity_decisions_total", `outcome="allowed"`, `policy="envoy-edge-user"`), 0)
			return
		}
	}
	require.Fail(t, "the machine was too slow in each round")
}

func TestEnvoy_twoProcessesShareTheBuckets(t *testing.T) {
	server := redistest.Start(t)
	rules := harness.WriteFile(t, "rules.yaml", "{domain: edge, descriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 10}}]}")
	vars := harness.Settings{"REDIS_ADDR": server.Addr, "VELOCITY_ENVOY_CONFIG": rules}
	_, one := startEnvoyService(t, vars)
	_, two := startEnvoyService(t, vars)
	passed := 0
	for range 10 {
		for _, e := range []*envoy{one, two} {
			if e.mustLimit("edge", "user=alice") == "OK: OK" {
				passed++
			}
		}
	}
	assert.Equal(t, 10, passed)
}

func TestEnvoy_stopsWithTheDataPlane(t *testing.T) {
	p, e := startEnvoyService(t, harness.Settings{"VELOCITY_HTTP_DRAIN_PERIOD": "2s"})
	check, err := e.health.Check(t.Context(), &healthv1.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_SERVING, check.GetStatus())
	p.Signal(syscall.SIGTERM)
	require.Eventually(t, func() bool {
		check, err := e.health.Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err == nil && check.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING
	}, harness.Timeout, time.Millisecond, "it does not report that it stops")
	_, err = e.limit("edge", "user=alice")
	require.NoError(t, err, "while it drains it answers")
	assert.Equal(t, http.StatusServiceUnavailable, p.MustDo(http.MethodGet, p.Admin+"/readyz", "").Status)
	assert.Equal(t, 0, p.Wait())
}

func TestEnvoy_aBadFileStopsTheStart(t *testing.T) {
	file := harness.WriteFile(t, "rules.yaml", "domain: edge\ndescriptors:\n  - key: a\n    quota_mode: true\n")
	p := harness.Launch(t, harness.Settings{"VELOCITY_GRPC_ADDR": "127.0.0.1:0", "VELOCITY_ENVOY_CONFIG": file})
	assert.Equal(t, 2, p.Wait())
	assert.Contains(t, p.Stderr.String(), file+":4:5: quota_mode: true is not supported")
	assert.Contains(t, p.Stderr.String(), "VELOCITY_ENVOY_CONFIG")
}

func TestEnvoy_anUnknownKindOfLimitStopsTheStart(t *testing.T) {
	p := harness.Launch(t, harness.Settings{"VELOCITY_GRPC_ADDR": "127.0.0.1:0", "VELOCITY_ENVOY_LIMITS": "window"})
	assert.Equal(t, 2, p.Wait())
	assert.Contains(t, p.Stderr.String(), `VELOCITY_ENVOY_LIMITS: "window": must be bucket or quota`)
}

// The rules in deploy/envoy, with the descriptors that its bootstrap sends for a login: five logins pass in a minute, and a
// denied one takes no token.
func TestEnvoy_theExamplesRulesLimitLogins(t *testing.T) {
	_, e := startEnvoyService(t, harness.Settings{"VELOCITY_ENVOY_CONFIG": "../deploy/envoy/config/ratelimit.yaml"})
	const client, login = "remote_address=192.0.2.1", "header_match=login, remote_address=192.0.2.1"
	passed := 0
	for range 20 {
		if e.mustLimit("edge", client, login) == "OK: OK OK" {
			passed++
		}
	}
	assert.GreaterOrEqual(t, passed, 5)
	assert.LessOrEqual(t, passed, 6, "one comes back every twelve seconds")
	assert.Equal(t, "OK: OK", e.mustLimit("edge", client))
	assert.Equal(t, "OK: OK OK", e.mustLimit("edge", "remote_address=192.0.2.2", "header_match=login, remote_address=192.0.2.2"))
}
