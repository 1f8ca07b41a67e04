package httpfiber_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func TestHTTP_errorsAreProblems(t *testing.T) {
	cfg := testConfig()
	cfg.ReadTimeout = 300 * time.Millisecond
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	const json = "Host: localhost\r\nContent-Type: application/json\r\n"
	for name, c := range map[string]struct {
		raw    string
		status int
		header string // that must be there
	}{
		"no such path":       {"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 404, ""},
		"the root":           {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, ""},
		"markup in the path": {"GET /<script>alert(1)</script> HTTP/1.1\r\nHost: x\r\n\r\n", 404, ""},
		"wrong method":       {"POST /api/resource HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405, "GET, HEAD"},
		"GET of a check":     {"GET /v1/check HTTP/1.1\r\nHost: x\r\n\r\n", 405, "POST"},
		"preflight":          {"OPTIONS /v1/check HTTP/1.1\r\nHost: x\r\n\r\n", 405, "POST"},
		"unknown method":     {"BREW /api/resource HTTP/1.1\r\nHost: x\r\n\r\n", 405, "GET, HEAD"},
		"unknown both":       {"BREW /nope HTTP/1.1\r\nHost: x\r\n\r\n", 404, ""},
		"override ignored":   {"POST /api/resource HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n\r\n", 405, "GET, HEAD"},
		"not HTTP":           {"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, ""},
		"HTTP/2 preface":     {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, ""},
		"large header":       {"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + strings.Repeat("a", 9000) + "\r\n\r\n", 431, ""},
		"half a header":      {"GET /api/resource HTTP/1.1\r\nHost:", 408, ""},
		"half a body":        {"POST /v1/check HTTP/1.1\r\n" + json + "Content-Length: 9\r\n\r\n{", 408, ""},
		"bad chunk":          {"POST /v1/check HTTP/1.1\r\n" + json + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, ""},
		"no host":            {"GET /api/resource HTTP/1.1\r\n\r\n", 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := exchange(t, addr, c.raw, 1)[0]
			assert.Equal(t, c.status, got.status, got.body)
			assert.Equal(t, c.header, got.header.Get("Allow"))
			assert.NotContains(t, got.body, "<script>")
			got.problem(t)
		})
	}
}

func TestHTTP_bodiesAreCappedPerRoute(t *testing.T) {
	addr := start(t, testConfig(), always(decided(t, 9, 1, true)))
	padded := func(body string, size int) string { return body + strings.Repeat(" ", size-len(body)) }
	for name, c := range map[string]struct {
		path   string
		size   int
		status int
	}{
		"check at its cap":           {"/v1/check", 64 << 10, 200},
		"check above":                {"/v1/check", 64<<10 + 1, 413},
		"check far above":            {"/v1/check", 8 << 20, 413},
		"checks at its cap":          {"/v1/checks", 1 << 20, 200},
		"checks, spelled otherwise":  {"/v1/./%63hecks?a=b", 1 << 20, 200},
		"checks above":               {"/v1/checks", 1<<20 + 1, 413},
		"another path":               {"/v1/checksum", 64<<10 + 1, 413},
		"another path, checks asked": {"/v1/check?/v1/checks", 64<<10 + 1, 413},
	} {
		body := `{"key":"a"}`
		if strings.Contains(name, "checks") {
			body = `{"checks":[]}`
		}
		if c.path == "/v1/check?/v1/checks" {
			body = `{"key":"a"}`
		}
		t.Run(name, func(t *testing.T) {
			got := post(t, addr, c.path, padded(body, c.size))
			assert.Equal(t, c.status, got.status)
			if c.status == 413 {
				got.problem(t)
			}
		})
		t.Run(name+", chunked", func(t *testing.T) {
			head := "POST " + c.path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
			conn := dial(t, addr)
			go func() { // the server may answer, and close, before all is sent
				_, _ = fmt.Fprintf(conn, "%s%x\r\n%s\r\n0\r\n\r\n", head, c.size, padded(body, c.size))
			}()
			assert.Equal(t, c.status, readAnswers(t, conn, 1)[0].status)
		})
		t.Run(name+", asked before", func(t *testing.T) {
			head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", c.path, c.size)
			conn := dial(t, addr)
			_, err := io.WriteString(conn, head)
			require.NoError(t, err)
			in := bufio.NewReader(conn)
			res, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			if c.status == 413 {
				assert.Equal(t, 413, res.StatusCode)
				read(t, res).problem(t)
				return
			}
			require.Equal(t, 100, res.StatusCode)
			_, err = io.WriteString(conn, padded(body, c.size))
			require.NoError(t, err)
			res, err = http.ReadResponse(in, nil)
			require.NoError(t, err)
			assert.Equal(t, c.status, read(t, res).status)
		})
	}
}

func TestHTTP_panicIsA500AndALogLine(t *testing.T) {
	core, logged := observer.New(zapcore.ErrorLevel)
	_, addr := startServer(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) {
		panic("secret reason")
	}), zap.New(core))
	got := call(t, "GET", "http://"+addr+"/api/resource", "", "X-Request-Id", "find-me")
	assert.Equal(t, 500, got.status)
	got.problem(t)
	assert.NotContains(t, got.body, "secret")
	assert.NotContains(t, got.body, ".go")
	require.Len(t, logged.All(), 1)
	line := logged.All()[0].ContextMap()
	assert.Equal(t, "find-me", line["requestID"])
	assert.Equal(t, "secret reason", line["reason"])
	assert.Contains(t, line["stack"], "httpfiber")
	assert.Equal(t, 404, call(t, "GET", "http://"+addr+"/nope", "").status, "the server goes on")
}

func TestHTTP_requestsOverTheCapOfConnectionsWait(t *testing.T) {
	cfg := testConfig()
	cfg.MaxConns = 1
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	first := dial(t, addr)
	_, err := io.WriteString(first, "GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	assert.Equal(t, 200, readAnswers(t, first, 1)[0].status)

	second := dial(t, addr)
	_, err = io.WriteString(second, "GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	require.NoError(t, second.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err = second.Read(make([]byte, 1))
	require.Error(t, err, "answered while the only slot is taken")

	require.NoError(t, first.Close())
	require.NoError(t, second.SetReadDeadline(time.Now().Add(10*time.Second)))
	assert.Equal(t, 200, readAnswers(t, second, 1)[0].status)
}

// TestHTTP_versionsThatItDoesNotSpeak are refused: the client would read the answer in another way.
func TestHTTP_versionsThatItDoesNotSpeak(t *testing.T) {
	addr := start(t, testConfig(), always(decided(t, 9, 1, true)))
	for version, status := range map[string]int{
		"HTTP/1.1": 200, "HTTP/1.0": 200, "HTTP/0.9": 400, "HTTP/2.0": 400, "HTTP/3.0": 400, "HTTP/1.10": 400, "HTTP/11.": 400, "http/1.1": 400,
	} {
		got := exchange(t, addr, "GET /api/resource "+version+"\r\nHost: x\r\n\r\n", 1)[0]
		assert.Equal(t, status, got.status, version)
		if status == 400 {
			got.problem(t)
		}
	}
}
