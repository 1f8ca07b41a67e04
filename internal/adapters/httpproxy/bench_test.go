package httpproxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// BenchmarkProxy compares the proxy with a bare httputil.ReverseProxy, in front of the same server.
func BenchmarkProxy(b *testing.B) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer upstream.Close()
	to, err := url.Parse(upstream.URL)
	require.NoError(b, err)
	bare := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.SetXForwarded()
	}})
	defer bare.Close()
	p := startPlane(b, proxyConfig(upstream.URL), always(decided(b, 9, 1, true)), httpproxy.API{})
	for name, address := range map[string]string{"bare": bare.URL, "velocity": "http://" + p.addr} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				res, err := http.Get(address)
				require.NoError(b, err)
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		})
	}
}

// cpuTime is what the process has computed: its client, its server and the proxy between them.
func cpuTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkEvents compares streams of 200 events, as an LLM sends them, whose usage is read with such as are only passed on.
func BenchmarkEvents(b *testing.B) {
	event := []byte(`data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1700000000,"model":"m",` +
		`"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}],"usage":null}` + "\n\n")
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 200 {
			_, _ = w.Write(event)
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.WriteString(w, "data: {\"choices\":[],\"usage\":{\"total_tokens\":100}}\n\ndata: [DONE]\n\n")
	}))
	defer upstream.Close()
	for name, cost := range map[string]policy.Cost{"passed on": {}, "read": {Actual: policy.Actual{Usage: true}}} {
		b.Run(name, func(b *testing.B) {
			p := startPlane(b, proxyConfig(upstream.URL), takes(cost), httpproxy.API{})
			b.ReportAllocs()
			began := cpuTime(b)
			for b.Loop() {
				res, err := http.Get("http://" + p.addr)
				require.NoError(b, err)
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op") // a busy machine changes ns/op alone
		})
	}
}
