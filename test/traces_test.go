package test

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// collector receives OTLP over HTTP.
type collector struct {
	url string

	mu       sync.Mutex
	calls    int
	services map[string]bool
	spans    []*tracepb.Span
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{services: make(map[string]bool)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(r.Body)
			if !assert.NoError(t, err) {
				return
			}
			body = unzipped
		}
		raw, err := io.ReadAll(body)
		var sent collectorpb.ExportTraceServiceRequest
		if !assert.NoError(t, err) || !assert.NoError(t, proto.Unmarshal(raw, &sent)) {
			return
		}
		assert.Equal(t, "/v1/traces", r.URL.Path)
		c.take(&sent)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *collector) take(sent *collectorpb.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	for _, r := range sent.GetResourceSpans() {
		for _, a := range r.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				c.services[a.GetValue().GetStringValue()] = true
			}
		}
		for _, s := range r.GetScopeSpans() {
			c.spans = append(c.spans, s.GetSpans()...)
		}
	}
}

// named returns the spans of this name. The process that sends them must have ended.
func (c *collector) named(name string) []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*tracepb.Span
	for _, s := range c.spans {
		if s.GetName() == name {
			found = append(found, s)
		}
	}
	return found
}

func attributes(s *tracepb.Span) map[string]any {
	all := make(map[string]any)
	for _, a := range s.GetAttributes() {
		if text := a.GetValue().GetStringValue(); text != "" {
			all[a.GetKey()] = text
		} else {
			all[a.GetKey()] = a.GetValue().GetIntValue()
		}
	}
	return all
}

const (
	traceOfClient = "0af7651916cd43dd8448eb211c80319c"
	spanOfClient  = "b7ad6b7169203331"
)

func requestTraced(t *testing.T, p *harness.Process, path, flags string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL+path, nil)
	require.NoError(t, err)
	req.Header.Set("traceparent", "00-"+traceOfClient+"-"+spanOfClient+"-"+flags)
	req.Header.Set("tracestate", "vendor=value")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)
}

// startTraced runs the service as a proxy before an API, with one real Redis. The channel gets the headers that the API
// receives.
func startTraced(t *testing.T, vars harness.Settings) (*harness.Process, chan http.Header) {
	t.Helper()
	seen := make(chan http.Header, 10)
	api := startAPI(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() })
	vars["VELOCITY_UPSTREAM_URL"] = api
	vars["VELOCITY_REDIS_ADDRS"] = redistest.Start(t).Addr
	vars["VELOCITY_TAKE_TIMEOUT"] = "5s" // so that a slow machine does not change the spans
	return harness.Start(t, vars), seen
}

func TestTraces_aRequestIsFollowedFromItsClientToTheShardAndTheUpstream(t *testing.T) {
	c := startCollector(t)
	p, seen := startTraced(t, harness.Settings{"OTEL_EXPORTER_OTLP_ENDPOINT": c.url})
	requestTraced(t, p, "/orders/7", "01")
	upstream := <-seen
	p.Stop() // sends the recorded spans

	requests := c.named("GET")
	require.Len(t, requests, 1)
	s := requests[0]
	assert.Equal(t, traceOfClient, hex.EncodeToString(s.GetTraceId()))
	assert.Equal(t, spanOfClient, hex.EncodeToString(s.GetParentSpanId()))
	assert.Equal(t, tracepb.Span_SPAN_KIND_SERVER, s.GetKind())
	assert.Equal(t, map[string]any{
		"http.request.method": "GET", "url.path": "/orders/7", "http.response.status_code": int64(200),
		"velocity.policy": "default", "velocity.outcome": "allowed", "velocity.store": "redis",
	}, attributes(s), "and no key")
	assert.True(t, c.services["velocity"], "the service's name")

	batches := c.named("batch")
	require.Len(t, batches, 1)
	require.Len(t, batches[0].GetLinks(), 1)
	assert.Equal(t, s.GetSpanId(), batches[0].GetLinks()[0].GetSpanId())
	assert.Equal(t, s.GetTraceId(), batches[0].GetLinks()[0].GetTraceId())
	assert.Equal(t, "shard-0", attributes(batches[0])["velocity.shard"])

	assert.Equal(t, []string{"00-" + traceOfClient + "-" + hex.EncodeToString(s.GetSpanId()) + "-01"}, upstream["Traceparent"])
	assert.Equal(t, []string{"vendor=value"}, upstream["Tracestate"])

	lines := p.LogLines("Decision: ALLOWED")
	require.Len(t, lines, 1)
	assert.Equal(t, traceOfClient, lines[0]["traceId"])
}

func TestTraces_everyRequestLinksToItsBatch(t *testing.T) {
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprint(shards), func(t *testing.T) { testLinks(t, shards) })
	}
}

func testLinks(t *testing.T, shards int) {
	t.Helper()
	const n = 64
	c := startCollector(t)
	_, addrs := redistest.StartN(t, shards)
	p := harness.Start(t, harness.Settings{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.url, "VELOCITY_REDIS_ADDRS": strings.Join(addrs, ","),
		"VELOCITY_SHORTCUT_MAX_ENTRIES": "0", "VELOCITY_TAKE_TIMEOUT": "5s", "VELOCITY_CLIENT_KEY": "header:X-Client-ID",
	})
	_ = burst(t, n, func(i int) (harness.Response, error) {
		return p.Do(http.MethodGet, p.URL+"/api/resource", "", fmt.Sprint("X-Client-ID: ", i))
	})
	p.Stop()

	requests, linked := map[string]int{}, map[string]int{}
	for _, s := range c.named("GET") {
		requests[hex.EncodeToString(s.GetSpanId())]++
	}
	groups, asked := int64(0), map[any]bool{}
	for _, s := range c.named("batch") {
		groups += attributes(s)["velocity.groups"].(int64)
		asked[attributes(s)["velocity.shard"]] = true
		for _, l := range s.GetLinks() {
			linked[hex.EncodeToString(l.GetSpanId())]++
		}
	}
	assert.Len(t, requests, n)
	assert.Equal(t, requests, linked)
	checks := groups - n // the health check at the start, of two groups for each shard, may be part of a batch
	assert.True(t, checks >= 0 && checks <= int64(2*shards) && checks%2 == 0, "%d groups", groups)
	assert.Len(t, asked, shards, "each shard has its own batches")
}

func TestTraces_aRequestWithManyDecisionsIsOneSpanLinkedFromEachShard(t *testing.T) {
	c := startCollector(t)
	_, addrs := redistest.StartN(t, 3)
	p := harness.Start(t, harness.Settings{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.url, "VELOCITY_REDIS_ADDRS": strings.Join(addrs, ","), "VELOCITY_TAKE_TIMEOUT": "5s",
		"VELOCITY_CAPACITY": "1", "VELOCITY_RATE": "1/h", "VELOCITY_CLIENT_KEY": "header:X-Client-ID",
	})
	checks := `{"key":"0"}`
	for i := range 40 {
		checks += fmt.Sprintf(`,{"key":"%d"}`, i)
	}
	require.Equal(t, http.StatusOK, p.MustDo(http.MethodPost, p.URL+"/v1/checks", `{"checks":[`+checks+`]}`).Status)
	p.MustDo(http.MethodPost, p.URL+"/v1/checks", `{"checks":[{"key":"0"}]}`)
	p.Stop()

	requests := c.named("POST")
	require.Len(t, requests, 2)
	many, one := attributes(requests[0]), attributes(requests[1])
	assert.EqualValues(t, 41, many["velocity.decisions"])
	assert.EqualValues(t, 1, many["velocity.refused"])
	assert.Equal(t, "default", many["velocity.policy"])
	assert.NotContains(t, many, "velocity.outcome")
	assert.Equal(t, "denied", one["velocity.outcome"], "a single decision has its attributes on the span")
	asked := map[any]bool{}
	for _, s := range c.named("batch") {
		require.Len(t, s.GetLinks(), 1)
		assert.Equal(t, requests[0].GetSpanId(), s.GetLinks()[0].GetSpanId())
		asked[attributes(s)["velocity.shard"]] = true
	}
	assert.Len(t, asked, 3)
}

func TestTraces_aCallOfEnvoysIsASpan(t *testing.T) {
	c := startCollector(t)
	p, e := startEnvoyService(t, harness.Settings{"OTEL_EXPORTER_OTLP_ENDPOINT": c.url, "VELOCITY_ENVOY_CONFIG": harness.WriteFile(t, "rules.yaml", `
domain: edge
descriptors:
  - {key: user, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: host, rate_limit: {unit: day, requests_per_unit: 1}}
`)})
	from := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+traceOfClient+"-"+spanOfClient+"-01")
	ask := func(ctx context.Context, keys ...string) error {
		r := &rlsv3.RateLimitRequest{Domain: "edge"}
		for _, key := range keys {
			r.Descriptors = append(r.Descriptors, &ratelimitv3.RateLimitDescriptor{
				Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: key, Value: "alice"}},
			})
		}
		_, err := e.rls.ShouldRateLimit(ctx, r)
		return err
	}
	require.NoError(t, ask(from, "user"))
	require.NoError(t, ask(t.Context(), "user", "host"))
	require.Error(t, ask(t.Context()))
	p.Stop()

	calls := c.named("envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
	require.Len(t, calls, 3)
	first, second, third := calls[0], attributes(calls[1]), attributes(calls[2])
	assert.Equal(t, traceOfClient, hex.EncodeToString(first.GetTraceId()))
	assert.Equal(t, spanOfClient, hex.EncodeToString(first.GetParentSpanId()))
	assert.Equal(t, tracepb.Span_SPAN_KIND_SERVER, first.GetKind())
	assert.Equal(t, map[string]any{
		"rpc.system.name": "grpc", "rpc.method": first.GetName(), "rpc.response.status_code": "OK",
		"velocity.policy": "envoy-edge-user", "velocity.outcome": "allowed", "velocity.store": "redis",
	}, attributes(first), "and no key")
	assert.EqualValues(t, 2, second["velocity.decisions"])
	assert.NotContains(t, second, "velocity.policy", "there are two")
	assert.Equal(t, "UNKNOWN", third["rpc.response.status_code"])
	assert.Equal(t, tracepb.Status_STATUS_CODE_ERROR, calls[2].GetStatus().GetCode())

	linked := c.named("batch")[0].GetLinks()
	require.Len(t, linked, 1)
	assert.Equal(t, first.GetSpanId(), linked[0].GetSpanId())
	assert.Equal(t, traceOfClient, p.LogLines("Decision: ALLOWED")[0]["traceId"])
}

// Export implements collectorpb.TraceServiceServer.
func (c *grpcCollector) Export(_ context.Context, sent *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.take(sent)
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

type grpcCollector struct {
	collectorpb.UnimplementedTraceServiceServer
	collector
}

func TestTraces_areSentByGRPCIfSet(t *testing.T) {
	c := &grpcCollector{collector: collector{services: make(map[string]bool)}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(server.Stop)
	p, _ := startTraced(t, harness.Settings{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + ln.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
		"OTEL_SERVICE_NAME": "edge",
	})
	requestTraced(t, p, "/", "01")
	p.Stop()
	assert.Len(t, c.named("GET"), 1)
	assert.True(t, c.services["edge"])
}

func TestTraces_unsampledTracesArePropagatedButNotRecorded(t *testing.T) {
	c := startCollector(t)
	p, seen := startTraced(t, harness.Settings{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.url + "/v1/traces"})
	requestTraced(t, p, "/", "00")
	upstream := <-seen
	p.Stop()
	assert.Regexp(t, "^00-"+traceOfClient+"-[0-9a-f]{16}-00$", upstream.Get("Traceparent"))
	assert.Zero(t, c.calls)
	assert.NotContains(t, p.LogLines("Decision: ALLOWED")[0], "traceId")
}

func TestTraces_aPathThatIsNotUTF8KeepsItsSpan(t *testing.T) {
	c := startCollector(t)
	p := harness.Start(t, harness.Settings{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": c.url})
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	require.NoError(t, err)
	_, err = io.WriteString(conn, "GET /api/\xff\xfe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	_, err = io.ReadAll(conn)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	p.Stop()
	require.Len(t, c.named("GET"), 1)
	assert.Equal(t, "/api/\ufffd", attributes(c.named("GET")[0])["url.path"])
}

func TestTraces_offByDefaultAndWhenSetSo(t *testing.T) {
	for name, vars := range map[string]harness.Settings{
		"no variable":          {},
		"OTEL_SDK_DISABLED":    {"OTEL_SDK_DISABLED": "true"},
		"OTEL_TRACES_EXPORTER": {"OTEL_TRACES_EXPORTER": "none"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCollector(t)
			if len(vars) > 0 {
				vars["OTEL_EXPORTER_OTLP_ENDPOINT"] = c.url
			}
			p, seen := startTraced(t, vars)
			requestTraced(t, p, "/", "01")
			upstream := <-seen
			p.Stop()
			assert.Zero(t, c.calls)
			assert.Equal(t, "00-"+traceOfClient+"-"+spanOfClient+"-01", upstream.Get("Traceparent"), "it is passed on unchanged")
			assert.NotContains(t, p.LogLines("Decision: ALLOWED")[0], "traceId")
		})
	}
}

func TestTraces_wrongVariablesKeepTheServiceFromStarting(t *testing.T) {
	p := harness.Launch(t, harness.Settings{
		"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318",
		"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_TRACES_SAMPLER": "some",
	})
	assert.Equal(t, 2, p.Wait())
	for _, variable := range []string{
		`OTEL_TRACES_EXPORTER: "zipkin": `, "OTEL_EXPORTER_OTLP_ENDPOINT: ",
		`OTEL_EXPORTER_OTLP_PROTOCOL: "http/json": `, `OTEL_TRACES_SAMPLER: "some": `,
	} {
		assert.Contains(t, p.Stderr.String(), variable)
	}
}

func TestTraces_noRequestWaitsForACollectorThatIsDown(t *testing.T) {
	p, _ := startTraced(t, harness.Settings{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + redistest.Blackhole(t)})
	requestTraced(t, p, "/", "01")
	began := time.Now()
	p.Signal(syscall.SIGTERM)
	assert.Equal(t, 0, p.Wait())
	assert.Less(t, time.Since(began), harness.Timeout/2)
}
