package httpproxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// reading is a Limiter that reads the request's body before it decides.
type reading struct {
	allowed bool
	takes   time.Duration
	decided atomic.Int32
	body    atomic.Pointer[[]byte] // as it was given last
}

func (l *reading) limiter(t testing.TB) limiterFunc {
	return func(req policy.Request) (decision.Decision, error) {
		body, err := req.Body()
		if err != nil {
			return decision.Decision{}, err
		}
		again, err := req.Body()
		assert.NoError(t, err)
		assert.Len(t, again, len(body))
		body = bytes.Clone(body)
		l.body.Store(&body)
		l.decided.Add(1)
		time.Sleep(l.takes)
		return decided(t, 9, 1, l.allowed), nil
	}
}

// clientOf is a client of one version of HTTP.
func clientOf(t testing.TB, http2 bool) *http.Client {
	t.Helper()
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	transport := &http.Transport{Protocols: &protocols, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// eachVersion runs a test for clients and upstreams of each version.
func eachVersion(t *testing.T, handler http.HandlerFunc, f func(t *testing.T, client *http.Client, upstream string)) {
	upstreams := map[string]string{"HTTP 1": startUpstream(t, handler), "HTTP 2": startH2C(t, handler)}
	for version, http2 := range map[string]bool{"HTTP 1": false, "HTTP 2": true} {
		for name, upstream := range upstreams {
			t.Run("client "+version+", upstream "+name, func(t *testing.T) {
				t.Parallel()
				f(t, clientOf(t, http2), upstream)
			})
		}
	}
}

func TestReadAhead_whatWasReadIsForwarded(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("X-Got", fmt.Sprint(r.ContentLength, " ", r.Trailer.Get("X-Check"), " ", err))
		_, _ = w.Write(body)
	}
	eachVersion(t, echo, func(t *testing.T, client *http.Client, upstream string) {
		l := &reading{allowed: true}
		addr := start(t, proxyConfig(upstream), l.limiter(t))
		for _, size := range []int{1, 4096, 100_000, policy.MaxCostBody, policy.MaxCostBody + 1, 3 << 20} {
			body := bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
			for _, chunked := range []bool{false, true} {
				of := fmt.Sprint(size, " chunked ", chunked)
				req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/", bytes.NewReader(body))
				require.NoError(t, err)
				want := fmt.Sprint(size, "  <nil>")
				if chunked {
					req.ContentLength, req.Trailer = -1, http.Header{"X-Check": {"yes"}}
					want = "-1 yes <nil>"
				}
				res, err := client.Do(req)
				require.NoError(t, err, of)
				got := read(t, res)
				assert.Equal(t, want, got.header.Get("X-Got"), of)
				assert.True(t, bytes.Equal([]byte(got.body), body), "%s: the body is another one", of)
				if size > policy.MaxCostBody {
					body = nil
				}
				assert.True(t, bytes.Equal(body, *l.body.Load()), "%s: it was decided by another body", of)
				body = bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
			}
		}
	})
}

// TestReadAhead_theRestPassesAsItComes: a client that waits for the answer to the begin of a large body gets it, also if the decision
// takes longer than a piece of a body may.
func TestReadAhead_theRestPassesAsItComes(t *testing.T) {
	talk := func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, err := io.CopyN(io.Discard, r.Body, policy.MaxCostBody+1)
		assert.NoError(t, err)
		_, _ = io.WriteString(w, "more")
		_ = http.NewResponseController(w).Flush()
		rest, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		_, _ = w.Write(rest)
	}
	eachVersion(t, talk, func(t *testing.T, client *http.Client, upstream string) {
		cfg := proxyConfig(upstream)
		cfg.ReadTimeout = 2 * time.Second
		l := &reading{allowed: true, takes: 2500 * time.Millisecond}
		addr := start(t, cfg, l.limiter(t))
		body, write := io.Pipe()
		go func() { _, _ = write.Write(make([]byte, policy.MaxCostBody+1)) }()
		res, err := client.Post("http://"+addr+"/", "application/json", body)
		require.NoError(t, err)
		begin := make([]byte, 4)
		_, err = io.ReadFull(res.Body, begin)
		require.NoError(t, err)
		go func() {
			_, _ = io.WriteString(write, " and the rest")
			_ = write.Close()
		}()
		assert.Equal(t, "more and the rest", string(begin)+read(t, res).body)
	})
}

// TestReadAhead_aClientThatAsksGets100Continue: the decision needs the body, and then comes as for any other request.
func TestReadAhead_aClientThatAsksGets100Continue(t *testing.T) {
	for name, allowed := range map[string]bool{"allowed": true, "denied": false} {
		t.Run(name, func(t *testing.T) {
			l := &reading{allowed: allowed}
			addr := start(t, proxyConfig(startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(w, r.Body)
			})), l.limiter(t))
			conn := dial(t, addr)
			in := bufio.NewReader(conn)
			for range 2 { // the connection goes on
				_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
				require.NoError(t, err)
				line, err := in.ReadString('\n')
				require.NoError(t, err)
				assert.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
				_, err = in.ReadString('\n')
				require.NoError(t, err)
				_, err = io.WriteString(conn, "hello")
				require.NoError(t, err)
				res, err := http.ReadResponse(in, nil)
				require.NoError(t, err)
				got := read(t, res)
				assert.Equal(t, "hello", string(*l.body.Load()))
				if allowed {
					assert.Equal(t, "200 hello", fmt.Sprint(got.status, " ", got.body))
				} else {
					assert.Equal(t, 429, got.status)
				}
				assert.False(t, got.close)
			}
		})
	}
}

// TestReadAhead_aClientThatFails has its request neither decided nor forwarded. One that is slow may be so for each piece.
func TestReadAhead_aClientThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		raw    string
		status int
	}{
		"silence":          {"Content-Length: 10\r\n\r\nhello", 408},
		"silence, chunked": {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 408},
		"bad chunk":        {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", 400},
		"bad trailer":      {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX Y: 1\r\n\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &reading{allowed: true}
			cfg := proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) { t.Error("it was forwarded") }))
			cfg.ReadTimeout = 300 * time.Millisecond
			addr := start(t, cfg, l.limiter(t))
			got := exchange(t, addr, "POST / HTTP/1.1\r\nHost: x\r\n"+c.raw, 1)[0]
			assert.Equal(t, c.status, got.status)
			assert.True(t, got.close)
			assert.Zero(t, l.decided.Load())
		})
	}
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		eachVersion(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) },
			func(t *testing.T, client *http.Client, upstream string) {
				cfg := proxyConfig(upstream)
				cfg.ReadTimeout, cfg.Upstream.Timeout = 2*time.Second, 2*time.Second
				l := &reading{allowed: true}
				addr := start(t, cfg, l.limiter(t))
				body, write := io.Pipe()
				go func() {
					for range 10 {
						_, _ = io.WriteString(write, "piece")
						time.Sleep(250 * time.Millisecond)
					}
					_ = write.Close()
				}()
				res, err := client.Post("http://"+addr+"/", "application/json", body)
				require.NoError(t, err)
				assert.Equal(t, strings.Repeat("piece", 10), read(t, res).body)
				assert.Equal(t, strings.Repeat("piece", 10), string(*l.body.Load()))
			})
	})
}

// TestReadAhead_allBodiesTogetherHaveABound: beyond it a body is not read, but forwarded as it comes.
func TestReadAhead_allBodiesTogetherHaveABound(t *testing.T) {
	// The number of chunked bodies, each of which may become a mebibyte.
	t.Run("usual", func(t *testing.T) { testBodyBytes(t, 0, 255) })
	t.Run("in a small container", func(t *testing.T) { testBodyBytes(t, 3<<20, 2) })
}

func testBodyBytes(t *testing.T, room, most int) {
	l := &reading{allowed: true}
	var reading atomic.Int32
	limiter := l.limiter(t)
	cfg := proxyConfig(startUpstream(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	cfg.MaxConns, cfg.ReadTimeout, cfg.Upstream.BodyBytes = 2*most+2, time.Minute, room
	addr := start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
		reading.Add(1)
		return limiter(req)
	}))
	conns := make([]net.Conn, most)
	for i := range conns {
		conns[i] = dial(t, addr)
		_, err := io.WriteString(conns[i], "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return int(reading.Load()) == most }, patience, tick)
	send := func(body string) (decidedBy string) {
		req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/", io.MultiReader(strings.NewReader(body)))
		require.NoError(t, err)
		res, err := clientOf(t, false).Do(req)
		require.NoError(t, err)
		assert.Equal(t, body, read(t, res).body)
		return string(*l.body.Load())
	}
	assert.Eventually(t, func() bool { return send("no room") == "" }, patience, tick, "the last may have yet to begin")
	assert.Equal(t, "small", call(t, "POST", "http://"+addr+"/", "small").body)
	assert.Equal(t, "small", string(*l.body.Load()), "there is room for one that says how small it is")
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	assert.Eventually(t, func() bool { return send("room") == "room" }, patience, tick)
}

// TestReadAhead_denialsFreeTheMemory: it would be full after 256 of them.
func TestReadAhead_denialsFreeTheMemory(t *testing.T) {
	l := new(reading)
	addr := start(t, proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) {})), l.limiter(t))
	body := strings.Repeat("x", policy.MaxCostBody)
	for range 258 {
		require.Equal(t, 429, call(t, "POST", "http://"+addr+"/", body).status)
	}
	assert.Len(t, *l.body.Load(), policy.MaxCostBody)
}

// TestReadAhead_noBody: a request without a body has none to read, and a gRPC call may be waiting for an answer.
func TestReadAhead_noBody(t *testing.T) {
	var had atomic.Bool
	addr := start(t, proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) {})),
		limiterFunc(func(req policy.Request) (decision.Decision, error) {
			if had.Store(req.Body != nil); req.Body != nil {
				body, err := req.Body()
				assert.NoError(t, err)
				assert.Nil(t, body)
			}
			return decided(t, 9, 1, true), nil
		}))
	assert.Equal(t, 200, call(t, "GET", "http://"+addr+"/", "").status)
	assert.False(t, had.Load())
	assert.Equal(t, 200, call(t, "POST", "http://"+addr+"/", "hello", "Content-Type", "application/grpc").status)
	assert.True(t, had.Load())
}

// TestReadAhead_aLargeBodyThatIsDenied is not read on, so the connection ends.
func TestReadAhead_aLargeBodyThatIsDenied(t *testing.T) {
	l := new(reading)
	addr := start(t, proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) {})), l.limiter(t))
	for name, head := range map[string]string{
		"by its length": "Content-Length: 100000000\r\n\r\n",
		"chunked":       "Transfer-Encoding: chunked\r\n\r\n200000\r\n" + strings.Repeat("x", 2<<20) + "\r\n",
	} {
		conn := dial(t, addr)
		_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\n"+head)
		require.NoError(t, err)
		got := readAnswers(t, conn, 1)[0]
		assert.Equal(t, 429, got.status, name)
		assert.True(t, got.close, name)
		assert.Nil(t, *l.body.Load(), name)
	}
}

// TestReadAhead_aClientThatLeaves while its body is read, or while its decision waits, is not forwarded.
func TestReadAhead_aClientThatLeaves(t *testing.T) {
	begun, failure := make(chan struct{}, 1), make(chan error, 1)
	addr := start(t, proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) { t.Error("it was forwarded") })),
		limiterFunc(func(req policy.Request) (decision.Decision, error) {
			begun <- struct{}{}
			_, err := req.Body()
			failure <- errors.Join(err)
			return decision.Decision{}, err
		}))
	conn := dial(t, addr)
	_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello")
	require.NoError(t, err)
	<-begun
	require.NoError(t, conn.Close())
	assert.Error(t, <-failure)
}
