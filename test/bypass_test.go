package test

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

	"github.com/velocity-limiter/velocity/test/harness"
	"github.com/velocity-limiter/velocity/test/measure"
)

// forged are headers by which a client pretends to be another client, or to make another request.
var forged = []string{
	"X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 198.51.100.8",
	"X-Forwarded-For: ::1", "X-Forwarded-For: 127.0.0.2", "X-Real-IP: 198.51.100.7", "Forwarded: for=198.51.100.7",
	"X-Client-IP: 198.51.100.7", "True-Client-IP: 198.51.100.7", "CF-Connecting-IP: 198.51.100.7",
	"X-Cluster-Client-IP: 198.51.100.7", "X-Originating-IP: 198.51.100.7", "X-Remote-Addr: 198.51.100.7",
	"X-Original-URI: /open", "X-Original-URL: /open", "X-Rewrite-URL: /open", "X-Forwarded-Uri: /open",
	"X-Forwarded-Host: elsewhere", "X-Forwarded-Method: OPTIONS", "X-HTTP-Method-Override: OPTIONS", "X-Method-Override: HEAD",
	"X-RateLimit-Limit: 1000", "X-RateLimit-Remaining: 1000", "X-RateLimit-Cost: 0", "X-Cost: 0", "Cost: 0", "Cost: -1",
	"Connection: X-Forwarded-For, close", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk",
	"Upgrade: websocket\r\nConnection: Upgrade", "X-Client_ID: bob", "X_Client_ID: bob", "Authorization: Bearer x", "Cookie: sid=1",
	"Expect: 100-continue", "Range: bytes=0-1", "If-None-Match: *", "Accept: text/html",
}

// spellings are other ways to write the request line for the resource.
var spellings = []string{
	"GET //api/resource HTTP/1.1", "GET /api//resource HTTP/1.1", "GET /api/./resource HTTP/1.1",
	"GET /api/x/../resource HTTP/1.1", "GET /api/%72esource HTTP/1.1", "GET /%61pi/resource HTTP/1.1",
	"GET /API/RESOURCE HTTP/1.1", "GET /api/resource/ HTTP/1.1", "GET /api/resource? HTTP/1.1", "GET /api/resource?a=b HTTP/1.1",
	"GET /api/resource;a=b HTTP/1.1", "GET /api%2fresource HTTP/1.1", "GET /api/resource%00 HTTP/1.1", "GET /api/resource%20 HTTP/1.1",
	"GET /../api/resource HTTP/1.1", "GET /api/resource#x HTTP/1.1", "GET http://elsewhere/api/resource HTTP/1.1",
	"GET /%2561pi/resource HTTP/1.1", "GET \\api\\resource HTTP/1.1", "HEAD /api/resource HTTP/1.1", "get /api/resource HTTP/1.1",
	"POST /api/resource HTTP/1.1", "OPTIONS /api/resource HTTP/1.1", "TRACE /api/resource HTTP/1.1", "PATCH /api/resource HTTP/1.1",
	"GET /api/resource HTTP/1.0", "GET  /api/resource HTTP/1.1", "GET /api/resource HTTP/2.0", "GET /api/resource",
}

// smuggled are headers that hide a second request in the body of the first, if a server misreads its length.
var smuggled = []string{
	"Content-Length: 0\r\nContent-Length: 44", "Content-Length: 44\r\nTransfer-Encoding: chunked", "Transfer-Encoding: xchunked",
	"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Content-Length: +4", "Content-Length : 44", "Content-Length: 0x10",
	"Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked, identity", "Host: elsewhere",
}

// A client whose tokens are spent tries all of these to be served.
func TestHostile_noRequestGetsPastTheLimit(t *testing.T) {
	for name, vars := range map[string]harness.Settings{
		"by address": {},
		"by header":  {"VELOCITY_CLIENT_KEY": "header:X-Client-ID"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vars["VELOCITY_RATE"], vars["VELOCITY_CAPACITY"] = "1/h", "3"
			p := harness.Start(t, vars)
			own := ""
			if name == "by header" {
				own = "X-Client-ID: alice\r\n"
			}
			for rawStatuses(t, p, "GET /api/resource HTTP/1.1\r\nHost: x\r\n"+own+"\r\n")[0] == http.StatusOK {
			}
			var attempts []string
			for _, line := range spellings {
				attempts = append(attempts, line+"\r\nHost: x\r\n"+own+"\r\n")
			}
			for _, header := range forged {
				attempts = append(attempts, "GET /api/resource HTTP/1.1\r\nHost: x\r\n"+own+header+"\r\n\r\n")
			}
			for _, header := range smuggled {
				attempts = append(attempts, "POST /nowhere HTTP/1.1\r\nHost: x\r\n"+own+header+"\r\n\r\n"+
					"0\r\n\r\nGET /api/resource HTTP/1.1\r\nHost: x\r\n"+own+"\r\n")
			}
			if own != "" {
				attempts = append(attempts, "GET /api/resource HTTP/1.1\r\nHost: x\r\nX-Client-ID: alice\r\nX-Client-ID: bob\r\n\r\n",
					"GET /api/resource HTTP/1.1\r\nHost: x\r\nX-Client-ID:  alice \r\n\r\n")
			}
			passed := 0
			for _, attempt := range attempts {
				for _, status := range rawStatuses(t, p, attempt) {
					if !assert.False(t, status >= 200 && status < 300, "%d of %q", status, attempt) {
						passed++
					}
				}
			}
			// A client that comes through a proxy cannot refund itself by the decision API.
			a := p.MustDo(http.MethodPost, p.URL+"/v1/refund", `{"key":"127.0.0.1","cost":3}`, "X-Forwarded-For: 198.51.100.7")
			assert.Equal(t, http.StatusForbidden, a.Status)
			t.Logf("%d attempts, %d passed", len(attempts)+1, passed)
			measure.Keep(t, "bypass-"+strings.ReplaceAll(name, " ", "-"), map[string]int{"Attempts": len(attempts) + 1, "Passed": passed})
		})
	}
}

// Behind a trusted proxy the right-most address is the client, whatever the client itself sends before it.
func TestHostile_addressesBeforeTheProxysAreIgnored(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1", "VELOCITY_TRUSTED_PROXIES": "loopback"})
	status := func(lines string) int {
		return rawStatuses(t, p, "GET /api/resource HTTP/1.1\r\nHost: x\r\n"+lines+"\r\n")[0]
	}
	require.Equal(t, http.StatusOK, status("X-Forwarded-For: 203.0.113.9\r\n"))
	for i, lines := range []string{
		"X-Forwarded-For: 198.51.100.%d, 203.0.113.9\r\n", "X-Forwarded-For: 198.51.100.%d\r\nX-Forwarded-For: 203.0.113.9\r\n",
		"X-Forwarded-For: %d, 203.0.113.9\r\n", "X-Forwarded-For: ,%d,203.0.113.9:80\r\n", "X-Forwarded-For: [::%d], ::ffff:203.0.113.9\r\n",
		"x-forwarded-for: 198.51.100.%d,203.0.113.9, 127.0.0.1\r\n",
	} {
		assert.Equal(t, http.StatusTooManyRequests, status(fmt.Sprintf(lines, i)), lines)
	}
}

// rawStatuses sends bytes on a new connection and returns the status of each response.
func rawStatuses(t *testing.T, p *harness.Process, text string) []int {
	t.Helper()
	conn := connect(t, p)
	defer func() { _ = conn.Close() }()
	_, err := io.WriteString(conn, text)
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	var statuses []int
	for wait := harness.Timeout; ; wait = 30 * time.Millisecond { // further responses follow at once, if at all
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		res, err := http.ReadResponse(in, &http.Request{Method: firstWord(text)})
		if err != nil {
			return statuses
		}
		statuses = append(statuses, res.StatusCode)
		_, _ = io.Copy(io.Discard, res.Body)
	}
}

func firstWord(text string) string {
	word, _, _ := strings.Cut(text, " ")
	return word
}
