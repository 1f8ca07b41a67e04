package proxy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// short are timeouts that no silence within a body may be measured by.
var short = harness.Settings{
	"VELOCITY_UPSTREAM_TIMEOUT": "5s", "VELOCITY_UPSTREAM_IDLE_TIMEOUT": "5s", "VELOCITY_HTTP_IDLE_TIMEOUT": "5s",
}

const silence = 20 * time.Second

// An answer that begins before the upload has ended is whole, and neither the rest of the upload nor a long silence after
// it cuts it. All streams run at once, so that the silence is waited for once.
func TestStreams_silenceIsNotCut(t *testing.T) {
	t.Parallel()
	const piece, pieces = 10_000, 10
	api := func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: begun\n\n")
		flush(w)
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		_, _ = fmt.Fprintf(w, "data: %d %x %v\n\n", n, sum.Sum(nil), err)
		flush(w)
		select {
		case <-time.After(silence):
			_, _ = io.WriteString(w, "data: end\n\n")
		case <-r.Context().Done():
		}
	}
	content := strings.Repeat("x", piece*pieces)
	want := fmt.Sprintf("data: begun\n\ndata: %d %x <nil>\n\ndata: end\n\n", piece*pieces, sha256.Sum256([]byte(content)))

	var streams sync.WaitGroup
	for _, pair := range pairs() {
		client, upstream := pair[0], pair[1]
		s := start(t, client, upstream.upstreamSettings(t, api), short)
		for _, length := range []int64{piece * pieces, -1} {
			streams.Go(func() {
				got, err := upload(t.Context(), s, length, pieces, piece)
				assert.NoError(t, err, "client %s, upstream %s, length %d", client.name, upstream.name, length)
				assert.Equal(t, want, got, "client %s, upstream %s, length %d", client.name, upstream.name, length)
			})
		}
	}
	for _, client := range protocols {
		if !client.http2 {
			streams.Go(silentSocket(t, client))
			continue
		}
		for _, upstream := range protocols[2:] {
			streams.Go(silentCall(t, client, upstream))
		}
	}
	streams.Wait()
}

// upload sends a body within two seconds, piece by piece, once the answer has begun, and returns the whole answer.
func upload(ctx context.Context, s *server, length int64, pieces, piece int) (string, error) {
	body, write := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/", body)
	if err != nil {
		return "", err
	}
	req.ContentLength = length
	begun := make(chan struct{})
	var sending sync.WaitGroup
	defer sending.Wait()
	defer func() { _ = body.Close() }()
	sending.Go(func() {
		text := strings.Repeat("x", piece)
		for i := range pieces {
			if _, err := io.WriteString(write, text); err != nil {
				return
			}
			if i == 0 { // the upstream answers as soon as the request begins
				select {
				case <-begun:
				case <-time.After(harness.Timeout):
					_ = write.CloseWithError(errors.New("no answer before the end of the upload"))
					return
				}
			}
			time.Sleep(2 * time.Second / time.Duration(pieces))
		}
		_ = write.Close()
	})
	res, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	close(begun)
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(res.Body)
	return string(got), err
}

// Signals interrupt system calls. A client that is silent, but there, is not taken for one that has gone.
func TestStreams_signalsEndNone(t *testing.T) { // not parallel: it would starve the others
	const streams = 300
	for _, client := range []protocol{protocols[0], protocols[3]} {
		t.Run(client.name, func(t *testing.T) {
			end := make(chan struct{})
			s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				flush(w)
				select {
				case <-end:
					_, _ = io.WriteString(w, "data: end\n\n")
				case <-r.Context().Done():
				}
			}), short, harness.Settings{"VELOCITY_UPSTREAM_TIMEOUT": "30s"}) // 300 answers begin at once
			var begun, all sync.WaitGroup
			begun.Add(streams)
			for i := range streams {
				all.Go(func() {
					res, err := s.client.Get(s.URL + "/")
					begun.Done()
					if assert.NoError(t, err) {
						got, err := io.ReadAll(res.Body)
						assert.NoError(t, err, i)
						assert.Equal(t, "data: end\n\n", string(got), i)
						assert.NoError(t, res.Body.Close())
					}
				})
			}
			begun.Wait()
			for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
				s.Signal(syscall.SIGURG)
			}
			close(end)
			all.Wait()
		})
	}
}

// Each event is read before the next one is written. If the length is unknown, so is the header before the first one.
func TestStreams_eventsArriveAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, client, upstream protocol) {
		next := make(chan struct{})
		s := start(t, client, upstream.upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", r.URL.Query().Get("type"))
			if length := r.URL.Query().Get("length"); length != "" {
				w.Header().Set("Content-Length", length)
				_, _ = io.WriteString(w, "-..\n")
			}
			for i := range 3 {
				flush(w)
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
				_, _ = fmt.Fprintf(w, "%d..\n", i)
			}
		}))
		for query, want := range map[string]string{
			"?type=text/event-stream":                  "",
			"?type=text/plain":                         "",
			"?type=application/octet-stream&length=16": "-..\n",
		} {
			res := s.do(t, http.MethodGet, "/"+query, nil)
			for i := range 4 {
				piece := make([]byte, len(want))
				_, err := io.ReadFull(res.Body, piece)
				require.NoError(t, err)
				assert.Equal(t, want, string(piece))
				if i == 3 {
					break
				}
				select {
				case next <- struct{}{}:
				case <-time.After(harness.Timeout):
					require.Fail(t, "the upstream has ended the answer")
				}
				want = fmt.Sprintf("%d..\n", i)
			}
			assert.Empty(t, text(t, res))
		}
	})
}

// The upstream answers each piece of the request before the next is sent.
func TestStreams_bothDirectionsAtOnce(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, client, upstream protocol) {
		s := start(t, client, upstream.upstreamSettings(t, echo))
		body, write := io.Pipe()
		go func() { _, _ = io.WriteString(write, "!") }()
		res := s.do(t, http.MethodPost, "/", body)
		got := make([]byte, 1)
		for _, c := range "!abc" {
			if c != '!' {
				_, err := io.WriteString(write, string(c))
				require.NoError(t, err)
			}
			_, err := io.ReadFull(res.Body, got)
			require.NoError(t, err)
			assert.Equal(t, string(c), string(got))
		}
		require.NoError(t, write.Close())
		assert.Empty(t, text(t, res))
	})
}

// echo answers with the request's body while it arrives.
func echo(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	flush(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			_, _ = w.Write(buf[:n])
			flush(w)
		}
		if err != nil {
			return
		}
	}
}

// Bodies of 64 MiB pass both ways at once, and the process grows by far less.
func TestStreams_largeBodiesTakeLittleMemory(t *testing.T) { // not parallel: it would starve the others
	const size, most = 64 << 20, 24 << 20
	for _, upstream := range []protocol{protocols[0], protocols[2]} {
		for _, client := range []protocol{protocols[0], protocols[2]} {
			t.Run("client "+client.name+", upstream "+upstream.name, func(t *testing.T) {
				s := start(t, client, upstream.upstreamSettings(t, echo))
				res := s.do(t, http.MethodPost, "/", strings.NewReader("warm"))
				assert.Equal(t, "warm", text(t, res))
				before := s.memory(t, "VmHWM")
				sent, got := sha256.New(), sha256.New()
				res = s.do(t, http.MethodPut, "/", io.TeeReader(io.LimitReader(&numbers{}, size), sent))
				n, err := io.Copy(got, res.Body)
				require.NoError(t, err)
				assert.EqualValues(t, size, n)
				assert.Equal(t, sent.Sum(nil), got.Sum(nil))
				grown := s.memory(t, "VmHWM") - before
				t.Logf("the peak of memory grew by %d KiB", grown>>10)
				assert.Less(t, grown, int64(most))
			})
		}
	}
}

// numbers is an endless body in which no two pieces are alike.
type numbers struct{ n byte }

func (b *numbers) Read(p []byte) (int, error) {
	b.n++
	for i := range p {
		p[i] = byte(i>>8) ^ byte(i) + b.n
	}
	return len(p), nil
}

func TestStreams_trailersPassBothWays(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, client, upstream protocol) {
		s := start(t, client, upstream.upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
			w.Header().Set("X-Sum", "of "+string(body))
			w.Header().Set(http.TrailerPrefix+"X-Seen", fmt.Sprint(r.Trailer)) // not announced
		}))
		body, write := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/", body)
		require.NoError(t, err)
		req.Header.Set("TE", "trailers")
		req.Trailer = http.Header{"X-Check": nil, "X_Under": nil}
		go func() {
			_, _ = io.WriteString(write, "hello")
			req.Trailer.Set("X-Check", "yes")
			req.Trailer["X_Under"] = []string{"no"}
			_ = write.Close()
		}()
		res, err := s.client.Do(req)
		require.NoError(t, err)
		assert.Equal(t, "hello", text(t, res))
		assert.Equal(t, http.Header{"X-Sum": {"of hello"}, "X-Seen": {"map[X-Check:[yes]]"}}, res.Trailer)
	})
}

// A body that breaks off at either side is seen to be incomplete at the other.
func TestStreams_halfABodyIsNoWholeOne(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, client, upstream protocol) {
		got := make(chan error, 1)
		s := start(t, client, upstream.upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				_, _ = io.WriteString(w, "half")
				flush(w)
				panic(http.ErrAbortHandler)
			}
			_, err := io.Copy(io.Discard, r.Body)
			got <- err
		}))
		res := s.do(t, http.MethodGet, "/", nil)
		_, err := io.ReadAll(res.Body)
		assert.Error(t, err, "the answer")

		ctx, cancel := context.WithCancel(t.Context())
		body, write := io.Pipe()
		go func() {
			_, _ = io.WriteString(write, "half")
			time.Sleep(50 * time.Millisecond)
			cancel()
			_ = write.CloseWithError(context.Canceled) // the Transport waits for it
		}()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/", body)
		require.NoError(t, err)
		if res, err = s.client.Do(req); err == nil { // the proxy answers sooner than the client gives up
			assert.Equal(t, http.StatusBadRequest, res.StatusCode)
			assert.NoError(t, res.Body.Close())
		}
		select {
		case err := <-got:
			assert.Error(t, err, "the request")
		case <-time.After(harness.Timeout):
			assert.Fail(t, "the upstream is still asked for a client that has gone")
		}
	})
}

// readLine reads up to the end of a line.
func readLine(t *testing.T, in *bufio.Reader) string {
	t.Helper()
	line, err := in.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimRight(line, "\r\n")
}
