package httpfiber

import (
	"bufio"
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
)

// FuzzForwardedHead: whatever a client sends, what the upstream gets is one head of one request, in which no line
// speaks for us.
func FuzzForwardedHead(f *testing.F) {
	for _, lines := range []string{
		"", "X-A: b\r\n", "Connection: close, X-A\r\nX-A: b\r\n", "X-Forwarded-For: 1\r\nX_Forwarded_For: 2\r\n", "A:\r\n b\r\n",
		"Upgrade: websocket\r\nConnection: upgrade\r\n", "TE: trailers\r\nContent-Length: 0\r\n", "Cookie: a=\"\r\nX: \t\r\n",
	} {
		f.Add("/a?b", lines, false)
		f.Add("/a", lines, true)
	}
	f.Fuzz(func(t *testing.T, target, lines string, trusted bool) {
		raw := "GET " + target + " HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n"
		var ctx fasthttp.RequestCtx
		ctx.Init(&ctx.Request, nil, nil)
		in := bufio.NewReaderSize(strings.NewReader(raw), maxHeader)
		if ctx.Request.Header.Read(in) != nil || checkLines(ctx.Request.Header.RawHeaders()) != nil {
			return
		}
		path, err := NormalizePath(string(ctx.URI().PathOriginal()))
		if err != nil {
			return
		}
		var h header
		p := &proxy{}
		if p.check(&ctx, &h) != nil {
			return
		}
		hop := hopToUs{peer: netip.MustParseAddr("192.0.2.1"), trusted: trusted, proto: "http", host: []byte("x")}
		head := append(h.appendHead(nil, &ctx, path, []byte("x"), hop), "\r\n"...)

		require.NoError(t, checkLines(head))
		assert.Equal(t, 1, bytes.Count(head, []byte("\r\n\r\n")), "%q", head)
		line, rest, _ := bytes.Cut(head, []byte("\r\n"))
		assert.Equal(t, 2, bytes.Count(line, []byte(" ")), "%q", line)
		seen := map[string]int{}
		for r := (rawHeader{rest}); ; {
			l, more, err := r.next()
			require.NoError(t, err, "%q", head)
			if !more {
				break
			}
			seen[string(bytes.ToLower(l.name))]++
			assert.NotContains(t, string(l.name), "_")
		}
		for _, once := range []string{"host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-request-id"} {
			assert.Equal(t, 1, seen[once], "%s in %q", once, head)
		}
		for _, never := range []string{"content-length", "transfer-encoding", "keep-alive", "expect", "x-original-url", "x-rewrite-url"} {
			assert.Zero(t, seen[never], "%s in %q", never, head)
		}
		assert.LessOrEqual(t, seen["connection"], 1)
		assert.True(t, trusted || seen["x-real-ip"] == 0)
	})
}

// FuzzForwardOriginal: what a proxy is believed to say is a request in normal form, whatever the headers hold.
func FuzzForwardOriginal(f *testing.F) {
	for _, seed := range [][4]string{
		{"GET", "/a?b", "", ""}, {"", "", "https://h:1/a", "h"}, {"POST", "//a/../b", "/b", "H"}, {"", "/%2f", "://", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, method, uri, url, host string) {
		var h fasthttp.RequestHeader
		h.Set("X-Forwarded-Method", method)
		h.Set("X-Original-URI", uri)
		h.Set("X-Original-URL", url)
		h.Set("X-Forwarded-Host", host)
		o := original{header: &h}
		o.read()
		if o.err != nil || o.path == "" {
			return
		}
		again, err := NormalizePath(o.path)
		require.NoError(t, err)
		assert.Equal(t, again, o.path)
		for _, part := range []string{o.method, o.host} {
			assert.NotContains(t, part, " ")
			assert.NotContains(t, part, ",")
		}
	})
}
