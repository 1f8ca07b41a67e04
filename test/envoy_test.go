package test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
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
)

// envoy asks a process as Envoy does.
type envoy struct {
	t      *testing.T
	rls    rlsv3.RateLimitServiceClient
	health healthv1.HealthClient
}

// startEnvoyDoor runs the service with its gRPC door on a Redis of its own, and buckets that only Redis decides.
func startEnvoyDoor(t *testing.T, vars settings) (*process, *envoy) {
	t.Helper()
	all := settings{
		"VELOCITY_GRPC_ADDR": "127.0.0.1:0", "REDIS_ADDR": redistest.Start(t).Addr,
		"VELOCITY_TAKE_TIMEOUT": "20s", "VELOCITY_ON_STORE_FAILURE": "closed",
	}
	for name, value := range vars {
		all[name] = value
	}
	p := start(t, all)
	line := p.logged("Envoy's rate limit service")
	require.Len(t, line, 1)
	conn, err := grpc.NewClient(line[0]["grpcAddr"].(string), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return p, &envoy{t, rlsv3.NewRateLimitServiceClient(conn), healthv1.NewHealthClient(conn)}
}

// ask sends descriptors, each "key=value, key=value", and returns the codes: of the whole, then of each.
func (e *envoy) ask(domain string, descriptors ...string) (string, error) {
	r := &rlsv3.RateLimitRequest{Domain: domain}
	for _, text := range descriptors {
		d := &ratelimitv3.RateLimitDescriptor{}
		for part := range strings.SplitSeq(text, ", ") {
			key, value, _ := strings.Cut(part, "=")
			d.Entries = append(d.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
		}
		r.Descriptors = append(r.Descriptors, d)
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	response, err := e.rls.ShouldRateLimit(ctx, r)
	text := response.GetOverallCode().String() + ":"
	for _, s := range response.GetStatuses() {
		text += " " + s.GetCode().String()
	}
	return text, err
}

func (e *envoy) mustAsk(domain string, descriptors ...string) string {
	e.t.Helper()
	codes, err := e.ask(domain, descriptors...)
	require.NoError(e.t, err)
	return codes
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// A crowd shares each bucket exactly, through rules of an envoyproxy/ratelimit file, and what one descriptor denies is
// given back to the other.
func TestEnvoy_rulesLimitExactly(t *testing.T) {
	const askers, rounds = 20, 15
	_, e := startEnvoyDoor(t, settings{"VELOCITY_ENVOY_CONFIG": write(t, "rules.yaml", `
domain: edge
descriptors:
  - {key: user, rate_limit: {unit: day, requests_per_unit: 100}}
  - {key: tenant, rate_limit: {unit: day, requests_per_unit: 50}}
  - {key: path, value: /files/*, share_threshold: true, rate_limit: {unit: day, requests_per_unit: 7}}
`)})
	var (
		gun, wg sync.WaitGroup
		passed  atomic.Int64
	)
	gun.Add(1)
	for range askers {
		wg.Go(func() {
			gun.Wait()
			for range rounds {
				codes, err := e.ask("edge", "user=alice", "tenant=acme")
				if assert.NoError(t, err) && codes == "OK: OK OK" {
					passed.Add(1)
				}
			}
		})
	}
	gun.Done()
	wg.Wait()
	// While a denied request holds tokens of the one, a neighbour may be denied the other: never too many, at most a few
	// too few, which one after the other still gets.
	for passed.Load() < 50 && e.mustAsk("edge", "user=alice", "tenant=acme") == "OK: OK OK" {
		passed.Add(1)
	}
	assert.EqualValues(t, 50, passed.Load())
	left := 0
	for e.mustAsk("edge", "user=alice") == "OK: OK" {
		left++
	}
	assert.Equal(t, 50, left, "what was denied for the tenant was not taken from the user")

	shared := 0
	for _, file := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"} {
		if e.mustAsk("edge", "path=/files/"+file) == "OK: OK" {
			shared++
		}
	}
	assert.Equal(t, 7, shared, "one bucket for all values of the wildcard")
	assert.Equal(t, "OK: OK", e.mustAsk("edge", "stranger=x"))
	assert.Equal(t, "OK: OK", e.mustAsk("elsewhere", "user=alice"))
}

func TestEnvoy_twoProcessesShareTheBuckets(t *testing.T) {
	server := redistest.Start(t)
	rules := write(t, "rules.yaml", "{domain: edge, descriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 10}}]}")
	vars := settings{"REDIS_ADDR": server.Addr, "VELOCITY_ENVOY_CONFIG": rules}
	_, one := startEnvoyDoor(t, vars)
	_, two := startEnvoyDoor(t, vars)
	passed := 0
	for range 10 {
		for _, e := range []*envoy{one, two} {
			if e.mustAsk("edge", "user=alice") == "OK: OK" {
				passed++
			}
		}
	}
	assert.Equal(t, 10, passed)
}

func TestEnvoy_stopsWithTheDataPlane(t *testing.T) {
	p, e := startEnvoyDoor(t, settings{"VELOCITY_HTTP_DRAIN_PERIOD": "2s"})
	check, err := e.health.Check(t.Context(), &healthv1.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_SERVING, check.GetStatus())
	p.signal(syscall.SIGTERM)
	require.Eventually(t, func() bool {
		check, err := e.health.Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err == nil && check.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING
	}, patience, time.Millisecond, "it never says that it is leaving")
	_, err = e.ask("edge", "user=alice")
	require.NoError(t, err, "while it drains it answers")
	assert.Equal(t, http.StatusServiceUnavailable, p.mustAsk(http.MethodGet, p.admin+"/readyz", "").status)
	assert.Equal(t, 0, p.wait())
}

func TestEnvoy_aBadFileStopsTheStart(t *testing.T) {
	file := write(t, "rules.yaml", "domain: edge\ndescriptors:\n  - key: a\n    quota_mode: true\n")
	p := launch(t, settings{"VELOCITY_GRPC_ADDR": "127.0.0.1:0", "VELOCITY_ENVOY_CONFIG": file})
	assert.Equal(t, 2, p.wait())
	assert.Contains(t, p.stderr.String(), file+":4:5: quota_mode: true cannot be honoured")
	assert.Contains(t, p.stderr.String(), "VELOCITY_ENVOY_CONFIG")
}
