//go:build containers

package containermemory

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// workers is the number of connections of a flood.
const workers = 16

// route is a way by which clients come. A call has each new clients.
type route struct {
	name string
	each int
	// connect returns a function that makes a call, of clients from first on. One goroutine uses it. It reports how many passed.
	connect func(c *container) (call func(first int64) (passed int, err error), err error)
}

// flood has count new clients make a request each, and requires that all pass.
func (r route) flood(c *container, count int) {
	c.T.Helper()
	var next, passed atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			call, err := r.connect(c)
			for err == nil {
				first := next.Add(int64(r.each)) - int64(r.each)
				if first >= int64(count) {
					return
				}
				var n int
				n, err = call(first)
				passed.Add(int64(n))
			}
			assert.NoError(c.T, err, r.name)
		})
	}
	wg.Wait()
	require.GreaterOrEqual(c.T, passed.Load(), int64(count), "new clients pass")
}

var checksRoute = route{"/v1/checks", 1000, func(c *container) (func(int64) (int, error), error) {
	return func(first int64) (int, error) {
		var body strings.Builder
		for i := range int64(1000) {
			fmt.Fprintf(&body, `,{"key":"checked-%d"}`, first+i)
		}
		a, err := c.Do(http.MethodPost, c.URL+"/v1/checks", `{"checks":[`+body.String()[1:]+`]}`, "Authorization: Bearer "+token)
		return strings.Count(a.Body, `"allowed":true`), err
	}, nil
}}

// batch is the number of requests that a connection has in flight.
const batch = 50

// headerRoute sends requests without waiting for the answers to those before, on a connection of its own. It ends with the test.
var headerRoute = route{"header", batch, func(c *container) (func(int64) (int, error), error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.URL, "http://"))
	if err != nil {
		return nil, err
	}
	c.T.Cleanup(func() { _ = conn.Close() })
	answers := bufio.NewReader(conn)
	return func(first int64) (passed int, err error) {
		var text strings.Builder
		for i := range int64(batch) {
			fmt.Fprintf(&text, "GET /api/resource HTTP/1.1\r\nHost: test\r\nX-Client-ID: by-header-%d\r\n\r\n", first+i)
		}
		if _, err := io.WriteString(conn, text.String()); err != nil {
			return 0, err
		}
		for range batch {
			a, err := http.ReadResponse(answers, nil)
			if err != nil {
				return passed, err
			}
			if _, err := io.Copy(io.Discard, a.Body); err != nil {
				return passed, err
			}
			if a.StatusCode == http.StatusOK {
				passed++
			}
		}
		return passed, nil
	}, nil
}}

// grpcRoute asks as Envoy does. The limit is in the request. It ends with the test.
var grpcRoute = route{"gRPC", 1, func(c *container) (func(int64) (int, error), error) {
	addr := c.LogLines("Envoy's rate limit service")[0]["grpcAddr"].(string)
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	c.T.Cleanup(func() { _ = conn.Close() })
	service := rlsv3.NewRateLimitServiceClient(conn)
	limit := &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 10, Unit: typev3.RateLimitUnit_HOUR}
	return func(first int64) (int, error) {
		entry := &ratelimitv3.RateLimitDescriptor_Entry{Key: "client", Value: fmt.Sprint("by-grpc-", first)}
		a, err := service.ShouldRateLimit(c.T.Context(), &rlsv3.RateLimitRequest{
			Domain:      "test",
			Descriptors: []*ratelimitv3.RateLimitDescriptor{{Entries: []*ratelimitv3.RateLimitDescriptor_Entry{entry}, Limit: limit}},
		})
		if a.GetOverallCode() == rlsv3.RateLimitResponse_OK {
			return 1, err
		}
		return 0, err
	}, nil
}}
