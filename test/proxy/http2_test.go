package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/velocity-limiter/velocity/test/harness"
)

// framer is a connection in HTTP/2 whose frames the test writes itself.
type framer struct {
	*http2.Framer
	conn net.Conn
	out  bytes.Buffer // the encoder's
	enc  *hpack.Encoder
	next uint32 // the next stream
}

// dialHTTP2 opens such a connection, over TLS or not.
func (s *server) dialHTTP2(t *testing.T) *framer {
	t.Helper()
	conn := s.dial(t)
	if s.tls != nil {
		cfg := s.tls.Clone()
		cfg.NextProtos = []string{"h2"}
		secure := tls.Client(conn, cfg)
		require.NoError(t, secure.Handshake())
		require.Equal(t, "h2", secure.ConnectionState().NegotiatedProtocol)
		conn = secure
	}
	_, err := io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	f := &framer{Framer: http2.NewFramer(conn, conn), conn: conn, next: 1}
	f.enc = hpack.NewEncoder(&f.out)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.AllowIllegalWrites = true
	require.NoError(t, f.WriteSettings())
	return f
}

// open sends the header of a request on a new stream, and returns the stream. fields are pairs after the usual four.
func (f *framer) open(method, path string, end bool, fields ...string) (uint32, error) {
	all := append([]string{":method", method, ":scheme", "http", ":authority", "x", ":path", path}, fields...)
	return f.openWith(all, end)
}

// openWith is open with all fields of the header, in this order.
func (f *framer) openWith(fields []string, end bool) (uint32, error) {
	stream := f.next
	f.next += 2
	f.out.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // a buffer takes all
	}
	return stream, f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: f.out.Bytes(), EndHeaders: true, EndStream: end,
	})
}

// status reads up to the answer on a stream, and returns its status; 0 if the server ends the stream or the connection.
func (f *framer) status(stream uint32) int {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			if broken := (http2.StreamError{}); errors.As(err, &broken) {
				continue
			}
			return 0
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream {
				n, _ := strconv.Atoi(frame.PseudoValue("status"))
				if n >= 200 {
					return n
				}
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				return 0
			}
		case *http2.GoAwayFrame:
			if frame.LastStreamID < stream {
				return 0
			}
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		}
	}
}

// Streams of one connection are requests like any other: as many pass as there are tokens.
func TestHTTP2_capacityIsExactOverConcurrentStreams(t *testing.T) {
	t.Parallel()
	const streams, capacity = 100, 37
	for _, client := range protocols[2:] {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			s := start(t, client, protocols[0].upstreamSettings(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) }),
				harness.Settings{"VELOCITY_CAPACITY": strconv.Itoa(capacity), "VELOCITY_RATE": "1/h"})
			f := s.dialHTTP2(t)
			var wanted []uint32
			for range streams {
				stream, err := f.open("GET", "/", true)
				require.NoError(t, err)
				wanted = append(wanted, stream)
			}
			statuses, answers := map[string]int{}, map[uint32]bool{}
			for len(answers) < streams {
				frame, err := f.ReadFrame()
				require.NoError(t, err)
				if head, is := frame.(*http2.MetaHeadersFrame); is && !answers[head.StreamID] {
					answers[head.StreamID] = true
					statuses[head.PseudoValue("status")]++
				}
				if settings, is := frame.(*http2.SettingsFrame); is && !settings.IsAck() {
					require.NoError(t, f.WriteSettingsAck())
				}
			}
			for _, stream := range wanted {
				assert.True(t, answers[stream], "stream %d", stream)
			}
			assert.Equal(t, map[string]int{"200": capacity, "429": streams - capacity}, statuses)
			assert.EqualValues(t, capacity, asked.Load())
		})
	}
}

// A client that opens streams and resets them at once (CVE-2023-44487) leaves nothing behind, and slows no other client.
func TestHTTP2_streamsThatAreResetAtOnceDoNoHarm(t *testing.T) {
	t.Parallel()
	const streams, most = 10_000, 32 << 20
	for _, client := range protocols[2:] {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			settings := protocols[0].upstreamSettings(t, func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/waits" {
					<-r.Context().Done()
				}
			})
			// A connection that was dialled for a stream which was reset meanwhile is kept, unused, for this long.
			settings["VELOCITY_UPSTREAM_IDLE_TIMEOUT"] = "500ms"
			s := start(t, client, settings)
			for range 20 {
				assert.Equal(t, http.StatusOK, s.do(t, http.MethodGet, "/", nil).StatusCode)
			}
			goroutines, memory := s.goroutines(t), s.memory(t, "VmRSS")

			ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
			defer cancel()
			var others sync.WaitGroup
			others.Go(func() { // whose requests are answered meanwhile
				for ctx.Err() == nil {
					res, err := s.client.Get(s.URL + "/")
					if assert.NoError(t, err) {
						assert.Equal(t, http.StatusOK, res.StatusCode)
						_ = res.Body.Close()
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
			opened := 0
			for connections := 0; opened < streams && connections < 1000; connections++ { // it may end a connection for it
				f := s.dialHTTP2(t)
				go func() { // answers are not this test's
					_, _ = io.Copy(io.Discard, f.conn)
				}()
				for opened < streams {
					stream, err := f.open("GET", "/waits", true)
					if err == nil {
						err = f.WriteRSTStream(stream, http2.ErrCodeCancel)
					}
					if err != nil {
						break
					}
					opened++
				}
				_ = f.conn.Close()
			}
			assert.Equal(t, streams, opened)
			ended := time.Now()
			cancel()
			others.Wait()
			assert.Eventually(t, func() bool { return s.goroutines(t) <= goroutines+20 }, 5*time.Second, 50*time.Millisecond,
				"%d goroutines before", goroutines)
			t.Logf("goroutines are back after %v", time.Since(ended))
			grown := func() int64 { return s.memory(t, "VmRSS") - memory }
			assert.Eventually(t, func() bool { return harness.Race() || grown() < most }, 5*time.Second, 50*time.Millisecond,
				"%d bytes of memory before", memory)
			t.Logf("memory grew by %d KiB", grown()>>10)
			assert.Equal(t, http.StatusOK, s.do(t, http.MethodGet, "/", nil).StatusCode)
		})
	}
}

// An upload that was reset, and one whose client has gone, end at the upstream.
func TestHTTP2_aResetEndsTheExchange(t *testing.T) {
	t.Parallel()
	for _, client := range protocols[2:] {
		for name, end := range map[string]func(*framer, uint32) error{
			"reset": func(f *framer, stream uint32) error { return f.WriteRSTStream(stream, http2.ErrCodeCancel) },
			"gone":  func(f *framer, _ uint32) error { return f.conn.Close() },
		} {
			t.Run(client.name+", "+name, func(t *testing.T) {
				t.Parallel()
				begun, ended := make(chan struct{}), make(chan struct{})
				s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
					flush(w)
					close(begun)
					<-r.Context().Done()
					close(ended)
				}))
				f := s.dialHTTP2(t)
				stream, err := f.open("GET", "/", true)
				require.NoError(t, err)
				<-begun
				require.NoError(t, end(f, stream))
				select {
				case <-ended:
				case <-time.After(harness.Timeout):
					assert.Fail(t, "the upstream is still asked")
				}
			})
		}
	}
}

// What cannot be a request in HTTP/2, or would be another one in HTTP/1.1, is refused, and the upstream does not see it.
func TestHTTP2_malformedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	for _, client := range protocols[2:] {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var seen []string
			s := start(t, client, protocols[0].upstreamSettings(t, func(_ http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err == nil { // else it is seen to be incomplete
					mu.Lock()
					seen = append(seen, r.Method+" "+r.RequestURI+" "+string(body))
					mu.Unlock()
				}
			}))
			usual := func(fields ...string) []string {
				return append([]string{":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/"}, fields...)
			}
			for name, c := range map[string]struct {
				fields []string
				data   string // sent in one frame that ends the stream; the header ends it if empty
			}{
				"connection":               {usual("connection", "close"), ""},
				"keep-alive":               {usual("keep-alive", "5"), ""},
				"proxy-connection":         {usual("proxy-connection", "close"), ""},
				"transfer-encoding":        {usual("transfer-encoding", "chunked"), "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"},
				"upgrade":                  {usual("upgrade", "websocket"), ""},
				"te":                       {usual("te", "gzip"), ""},
				"a capital":                {usual("X-A", "b"), ""},
				"a space in a name":        {usual("x a", "b"), ""},
				"a line end in a value":    {usual("x-a", "b\r\ny: z"), ""},
				"a line end in a name":     {usual("x-a\r\ny", "z"), ""},
				"a zero in a value":        {usual("x-a", "b\x00"), ""},
				"a space in the path":      {[]string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/a HTTP/1.1\r\nHost: y\r\n\r\n"}, ""},
				"a blank in the path":      {[]string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/a b"}, ""},
				"a line end in a method":   {[]string{":method", "GET / HTTP/1.1\r\nHost: y\r\n\r\nGET", ":scheme", "http", ":authority", "x", ":path", "/"}, ""},
				"a blank in a method":      {[]string{":method", "GET /x", ":scheme", "http", ":authority", "x", ":path", "/"}, ""},
				"no path":                  {[]string{":method", "GET", ":scheme", "http", ":authority", "x"}, ""},
				"an empty path":            {[]string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", ""}, ""},
				"a relative path":          {[]string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "a"}, ""},
				"two paths":                {usual(":path", "/other"), ""},
				"a late pseudo-header":     {usual("x-a", "b", ":path", "/other"), ""},
				"two hosts":                {usual("host", "y"), ""},
				"a host that is none":      {[]string{":method", "GET", ":scheme", "http", ":authority", "x/y", ":path", "/"}, ""},
				"a host with a line end":   {[]string{":method", "GET", ":scheme", "http", ":authority", "x\r\ny: z", ":path", "/"}, ""},
				"an encoded slash":         {[]string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/a%2fb"}, ""},
				"above the root":           {[]string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/../b"}, ""},
				"encoded twice":            {[]string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/%252e/b"}, ""},
				"a method in mixed case":   {[]string{":method", "Post", ":scheme", "http", ":authority", "x", ":path", "/"}, ""},
				"CONNECT":                  {[]string{":method", "CONNECT", ":authority", "x:80"}, ""},
				"extended CONNECT":         {[]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "x", ":path", "/"}, ""},
				"TRACE":                    {[]string{":method", "TRACE", ":scheme", "http", ":authority", "x", ":path", "/"}, ""},
				"too short for its length": {usual("content-length", "5"), "hel"},
				"too long for its length":  {usual("content-length", "1"), "hello"},
				"two lengths":              {usual("content-length", "5", "content-length", "0"), "hello"},
				"a length that is none":    {usual("content-length", "+5"), "hello"},
				"a length and no body":     {usual("content-length", "5"), ""},
			} {
				f := s.dialHTTP2(t)
				stream, err := f.openWith(c.fields, c.data == "")
				require.NoError(t, err)
				if c.data != "" {
					require.NoError(t, f.WriteData(stream, true, []byte(c.data)))
				}
				require.NoError(t, f.conn.SetReadDeadline(time.Now().Add(harness.Timeout)))
				switch status := f.status(stream); status {
				case 0, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusBadGateway:
				default:
					assert.Fail(t, "it passes", "%s: %d", name, status)
				}
				mu.Lock()
				assert.Empty(t, seen, name)
				seen = nil
				mu.Unlock()
				_ = f.conn.Close()
			}

			f := s.dialHTTP2(t) // and what is sound passes
			stream, err := f.openWith(usual("content-length", "5", "te", "trailers"), false)
			require.NoError(t, err)
			require.NoError(t, f.WriteData(stream, true, []byte("hello")))
			assert.Equal(t, http.StatusOK, f.status(stream))
			mu.Lock()
			assert.Equal(t, "POST / hello", strings.Join(seen, "; "))
			mu.Unlock()
		})
	}
}

// TestHTTP2_aGETHasNoBody: once the upstream is known to speak HTTP/2, which says by itself what was not processed.
func TestHTTP2_aGETHasNoBody(t *testing.T) {
	var odd atomic.Int32
	upstream := protocol{name: "HTTP/2 over TLS", tls: true, http2: true}
	s := start(t, protocols[0], upstream.upstreamSettings(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.ContentLength != 0 {
			odd.Add(1)
		}
	}))
	for range 4 {
		res, err := s.client.Get(s.URL + "/")
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	assert.LessOrEqual(t, odd.Load(), int32(1), "the first request asks a server that is not known yet")
}
