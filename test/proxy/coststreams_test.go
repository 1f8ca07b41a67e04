package proxy

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

var streamMegabytes = flag.Int("costs.megabytes", 2, "size of each of 200 streams whose usage is read")

// oddEvents are server-sent events in all the forms that are allowed, and bytes that are none.
var oddEvents = []string{
	": a comment\n\n", "data: {\"usage\":\n\n", "event: x\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n", "\xff\x00data:\r\r",
	"data: {\"text\":\"\xe2\x82", "\xac\"}\n\n", "data: {\"usage\":{\"total_tokens\":", "812}}\n\n", "data: [DONE]\n\n",
	strings.Repeat("x", 100_000) + "\n\n",
}

// Each piece of a stream whose usage is read arrives before the next is sent, and the whole is what the upstream sent.
func TestCosts_eachEventIsForwardedAtOnce(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, client, upstream protocol) {
		read := make(chan struct{})
		sent := make(chan time.Time, len(oddEvents))
		s := start(t, client, upstream.upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.Copy(io.Discard, r.Body)
			for _, event := range oddEvents {
				sent <- time.Now()
				_, _ = io.WriteString(w, event)
				flush(w)
				select {
				case <-read:
				case <-r.Context().Done():
					return
				}
			}
		}), metered(t))
		res := s.do(t, http.MethodPost, "/plain/", strings.NewReader(`{"max_tokens":10}`), "X-Client", "a", "X-Tenant", "t")
		var took []time.Duration
		for i, event := range oddEvents {
			got := make([]byte, len(event))
			_, err := io.ReadFull(res.Body, got[:1])
			require.NoError(t, err, "event %d", i)
			took = append(took, time.Since(<-sent))
			_, err = io.ReadFull(res.Body, got[1:])
			require.NoError(t, err, "event %d", i)
			assert.Equal(t, event, string(got), "event %d", i)
			read <- struct{}{}
		}
		rest, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.Empty(t, rest)
		slices.Sort(took)
		t.Logf("the first byte of an event took %s, the median of %d", took[len(took)/2], len(took))
		s.spends(t, "plain/a", 812)
	})
}

// spends waits until the request of that client has cost so much.
func (s *server) spends(t *testing.T, key string, want int) {
	t.Helper()
	run := meteredRun{server: s, spent: map[string]int{key: want}}
	run.levelsAgree(t)
}

// Streams of any length are read in bounded memory, also those of which an event is as long as the stream.
func TestCosts_longStreamsAreReadInLittleMemory(t *testing.T) { // not parallel: it would starve the others
	const streams, most = 200, 300 << 20
	size := *streamMegabytes << 20
	event := "data: {\"choices\":[{\"delta\":{\"content\":\"" + strings.Repeat("usage ", 2000) + "\"}}]}\n\n"
	last := "data: {\"usage\":{\"total_tokens\":17}}\n\n"
	begin := make(chan struct{})
	s := start(t, protocols[3], protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		flush(w)
		<-begin
		if r.Header.Get("X-Client") == "long" {
			event := []byte(event[:len(event)-5])
			_, _ = w.Write(event)
			for n := len(event); n < size; n += len(event) {
				_, _ = w.Write(bytes.ReplaceAll(event, []byte(`"`), []byte(` `)))
			}
			_, _ = io.WriteString(w, "\"}}]}\n\n")
		} else {
			for n := 0; n < size; n += len(event) {
				_, _ = io.WriteString(w, event)
			}
		}
		_, _ = io.WriteString(w, last)
	}), metered(t), harness.Settings{
		"VELOCITY_UPSTREAM_MAX_CONNS": "300", "VELOCITY_HTTP_WRITE_TIMEOUT": "5m", // a slow machine must not look like a client that does not read
	})
	s.client.Timeout = 5 * time.Minute
	var all sync.WaitGroup
	for i := range streams {
		res := s.do(t, http.MethodPost, "/plain/", strings.NewReader(`{"max_tokens":10}`), "X-Client", [...]string{"short", "long"}[i%2], "X-Tenant", "t")
		all.Go(func() {
			n, err := io.Copy(io.Discard, res.Body)
			assert.NoError(t, err)
			assert.GreaterOrEqual(t, n, int64(size))
		})
	}
	close(begin)
	all.Wait()
	s.spends(t, "plain/short", 17*streams/2)
	s.spends(t, "plain/long", 17*streams/2)
	peak := s.memory(t, "VmHWM")
	t.Logf("at most %d MB", peak>>20)
	assert.Less(t, peak, int64(most))
}

// A process that stops settles what it cuts off: with a permit and without, over HTTP/1.1 and HTTP/2.
func TestCosts_areSettledWhenTheProcessStops(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	settings := metered(t)
	settings["VELOCITY_REDIS_ADDRS"], settings["VELOCITY_TAKE_TIMEOUT"] = redis.Addr, "5s"
	other := start(t, protocols[0], settings)
	for _, client := range []protocol{protocols[0], protocols[3]} {
		s := start(t, client, protocols[0].upstreamSettings(t, meteredUpstream(func(*http.Request) {})), settings)
		for _, policy := range []string{"plain", "held"} {
			m := meteredRequest{kind: "left-stream", estimate: 100, seen: 500}
			res := s.do(t, http.MethodPost, "/"+policy+m.path(), strings.NewReader(m.body()), "X-Client", client.name[5:6], "X-Tenant", "t")
			_, err := io.ReadFull(res.Body, make([]byte, len("event: message_start\ndata: {\"message\":{\"usage\":")))
			require.NoError(t, err)
		}
		require.NoError(t, s.Cmd.Process.Signal(syscall.SIGTERM))
		require.Eventually(t, s.HasExited, 3*harness.Timeout, harness.Interval)
		other.spends(t, "plain/"+client.name[5:6], 500)
		other.spends(t, "held/"+client.name[5:6], 500)
	}
	other.spends(t, "shared%2Ftenant/t", 1000)
}

// Bodies from which an estimate is read reach the upstream as they were sent, and a client that asks sends them once.
func TestCosts_bodiesAreForwardedAsTheyWereSent(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, client, upstream protocol) {
		s := start(t, client, upstream.upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			sum := sha256.New()
			n, err := io.Copy(sum, r.Body)
			_, _ = fmt.Fprintf(w, "%d %d %x %v", r.ContentLength, n, sum.Sum(nil), err)
		}), metered(t))
		for i, size := range []int{0, 10, 70_000, 1 << 20, 1<<20 + 1, 5 << 20} {
			body := []byte(`{"max_tokens":10}` + strings.Repeat(" ", size))
			for j, reader := range []io.Reader{bytes.NewReader(body), io.MultiReader(bytes.NewReader(body))} {
				length, key := len(body), fmt.Sprint("c", i, j)
				if j == 1 {
					length = -1 // it is not known
				}
				want := fmt.Sprintf("%d %d %x <nil>", length, len(body), sha256.Sum256(body))
				res := s.do(t, http.MethodPost, "/plain/", reader, "X-Client", key, "X-Tenant", "t", "Expect", "100-continue")
				assert.Equal(t, want, text(t, res), "%d bytes", size)
				s.spends(t, "plain/"+key, missingCost)
			}
		}
	})
}
