package httpfiber_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

const get = "GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n"

// stopping is a server that its test stops.
type stopping struct {
	*httpfiber.Server
	addr   string
	served chan error
}

func startToStop(t *testing.T, cfg httpfiber.Config, limiter limiterFunc) stopping {
	t.Helper()
	s, err := httpfiber.New(cfg, limiter, nil, zap.NewNop())
	require.NoError(t, err)
	ln, err := s.Listen()
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	return stopping{s, ln.Addr().String(), served}
}

// shutdown returns how long it took.
func (s stopping) shutdown(t *testing.T, within time.Duration) (time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	began := time.Now()
	err := s.Shutdown(ctx)
	assert.NoError(t, <-s.served)
	return time.Since(began), err
}

func TestShutdown_waitsForWhatIsInFlight(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := startToStop(t, testConfig(), func(policy.Request) (decision.Decision, error) {
		close(entered)
		<-leave
		return decided(t, 9, 1, true), nil
	})
	conn := dial(t, s.addr)
	_, err := io.WriteString(conn, get)
	require.NoError(t, err)
	<-entered
	stopped := make(chan error, 1)
	go func() {
		_, err := s.shutdown(t, 10*time.Second)
		stopped <- err
	}()
	require.Eventually(t, s.Draining, time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}, 5*time.Second, 10*time.Millisecond, "new connections are refused in the end")
	close(leave)
	got := readAnswers(t, conn, 1)[0]
	assert.Equal(t, 200, got.status)
	assert.True(t, got.close)
	require.NoError(t, <-stopped)
}

// TestShutdown_drainAnswersAndSendsClientsAway shows that during the drain period both old and new connections are
// answered, once each.
func TestShutdown_drainAnswersAndSendsClientsAway(t *testing.T) {
	cfg := testConfig()
	cfg.DrainPeriod = time.Second
	s := startToStop(t, cfg, always(decided(t, 9, 1, true)))
	old := dial(t, s.addr)
	_, err := io.WriteString(old, get)
	require.NoError(t, err)
	assert.False(t, readAnswers(t, old, 1)[0].close)

	stopped := make(chan time.Duration, 1)
	go func() {
		took, err := s.shutdown(t, 10*time.Second)
		assert.NoError(t, err)
		stopped <- took
	}()
	require.Eventually(t, s.Draining, time.Second, time.Millisecond)
	for _, conn := range []net.Conn{old, dial(t, s.addr)} {
		_, err = io.WriteString(conn, get)
		require.NoError(t, err)
		got := readAnswers(t, conn, 1)[0]
		assert.Equal(t, 200, got.status)
		assert.True(t, got.close)
	}
	took := <-stopped
	assert.GreaterOrEqual(t, took, time.Second)
	assert.Less(t, took, 3*time.Second)
}

// TestShutdown_endsInTimeWhateverConnectionsDo has clients that send nothing, half a header, half a body, or keep an
// idle connection: without care each holds the server for its whole timeout.
func TestShutdown_endsInTimeWhateverConnectionsDo(t *testing.T) {
	cfg := testConfig()
	cfg.ReadTimeout, cfg.IdleTimeout = time.Minute, time.Minute
	s := startToStop(t, cfg, always(decided(t, 9, 1, true)))
	for _, sent := range []string{
		"", "G", "GET / HTTP/1.1\r\nHo", get,
		"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{",
	} {
		conn := dial(t, s.addr)
		_, err := io.WriteString(conn, sent)
		require.NoError(t, err)
		if sent == get {
			readAnswers(t, conn, 1)
		}
	}
	took, err := s.shutdown(t, 20*time.Second)
	require.NoError(t, err)
	assert.Less(t, took, 3*time.Second)
}

// TestShutdown_aRequestThatIsCompletedInTimeIsAnswered finishes a request after the server has stopped accepting.
func TestShutdown_aRequestThatIsCompletedInTimeIsAnswered(t *testing.T) {
	s := startToStop(t, testConfig(), always(decided(t, 9, 1, true)))
	conn := dial(t, s.addr)
	_, err := io.WriteString(conn, get[:20])
	require.NoError(t, err)
	stopped := make(chan error, 1)
	go func() {
		_, err := s.shutdown(t, 10*time.Second)
		stopped <- err
	}()
	require.Eventually(t, func() bool { // the drain is over
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}, 5*time.Second, 10*time.Millisecond)
	_, err = io.WriteString(conn, get[20:])
	require.NoError(t, err)
	assert.Equal(t, 200, readAnswers(t, conn, 1)[0].status)
	require.NoError(t, <-stopped)
}

func TestShutdown_endsWithItsContext(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	defer close(leave)
	s := startToStop(t, testConfig(), func(policy.Request) (decision.Decision, error) {
		close(entered)
		<-leave
		return decision.Decision{}, nil
	})
	conn := dial(t, s.addr)
	_, err := io.WriteString(conn, get)
	require.NoError(t, err)
	<-entered
	took, err := s.shutdown(t, 300*time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, took, 2*time.Second)
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is not cut off")
}

// TestShutdown_underLoadLosesNothing counts every request that was sent on a connection which the server had not
// closed, or said it would close.
func TestShutdown_underLoadLosesNothing(t *testing.T) {
	cfg := testConfig()
	cfg.DrainPeriod = 300 * time.Millisecond
	s := startToStop(t, cfg, always(decided(t, 9, 1, true)))
	var sent, answered atomic.Int64
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for {
				conn, err := net.Dial("tcp", s.addr)
				if err != nil {
					return // refused: the server is gone
				}
				in := bufio.NewReader(conn)
				for closing, first := false, true; !closing; first = false {
					if _, err := io.WriteString(conn, get); err != nil {
						break
					}
					sent.Add(1)
					res, err := http.ReadResponse(in, nil)
					if err != nil {
						// Connected in the last moment: the kernel resets what the listener has not accepted.
						if first && errors.Is(err, syscall.ECONNRESET) {
							sent.Add(-1)
						}
						break
					}
					_, err = io.Copy(io.Discard, res.Body)
					if err == nil && res.StatusCode == 200 {
						answered.Add(1)
					}
					closing = res.Close
				}
				_ = conn.Close()
			}
		})
	}
	require.Eventually(t, func() bool { return answered.Load() > 1000 }, 10*time.Second, time.Millisecond)
	_, err := s.shutdown(t, 10*time.Second)
	require.NoError(t, err)
	clients.Wait()
	assert.Equal(t, sent.Load(), answered.Load())
}

func TestServe_afterShutdownEndsAtOnce(t *testing.T) {
	s, err := httpfiber.New(testConfig(), always(decided(t, 9, 1, true)), nil, zap.NewNop())
	require.NoError(t, err)
	require.NoError(t, s.Shutdown(t.Context()))
	ln, err := s.Listen()
	require.NoError(t, err)
	require.NoError(t, s.Serve(ln))
	_, err = net.Dial("tcp", ln.Addr().String())
	assert.Error(t, err, "the listener is closed")
}

// flaky fails as a listener does whose process has no file left, before it accepts.
type flaky struct {
	net.Listener
	left atomic.Int32
}

func (l *flaky) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestServe_outlivesALackOfFiles(t *testing.T) {
	s, err := httpfiber.New(testConfig(), always(decided(t, 9, 1, true)), nil, zap.NewNop())
	require.NoError(t, err)
	ln, err := s.Listen()
	require.NoError(t, err)
	failing := &flaky{Listener: ln}
	failing.left.Store(3)
	serve(t, s, failing)
	assert.Equal(t, 200, call(t, "GET", "http://"+ln.Addr().String()+"/api/resource", "").status)
	assert.Negative(t, failing.left.Load())
}
