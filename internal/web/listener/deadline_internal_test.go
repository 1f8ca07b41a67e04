package listener

import (
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// inPipe runs f in a bubble of its own time, with both ends of a connection.
func inPipe(t *testing.T, f func(t *testing.T, own *conn, peer net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		raw, peer := net.Pipe()
		conns := New(1, zap.NewNop())
		conns.slots <- struct{}{}
		own := conns.add(raw)
		t.Cleanup(func() { assert.NoError(t, own.Close()) })
		f(t, own, peer)
	})
}

func in(d time.Duration) time.Time { return time.Now().Add(d) }

func TestConn_lastReadDeadlineCounts(t *testing.T) {
	for name, deadlines := range map[string][]time.Duration{
		"later":            {time.Second, 10 * time.Second},
		"earlier":          {75 * time.Second, 10 * time.Second},
		"later and nearer": {time.Second, 75 * time.Second, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inPipe(t, func(t *testing.T, own *conn, _ net.Conn) {
				begin := time.Now()
				for _, d := range deadlines {
					require.NoError(t, own.SetReadDeadline(in(d)))
				}
				n, err := own.Read(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				assert.Zero(t, n)
				assert.Equal(t, 10*time.Second, time.Since(begin))
			})
		})
	}
}

func TestConn_noDeadlineAfterOne(t *testing.T) {
	inPipe(t, func(t *testing.T, own *conn, peer net.Conn) {
		require.NoError(t, own.SetDeadline(in(time.Second)))
		require.NoError(t, own.SetDeadline(time.Time{}))
		time.AfterFunc(time.Hour, func() { _, _ = peer.Write([]byte("x")) })
		n, err := own.Read(make([]byte, 1))
		require.NoError(t, err)
		assert.Equal(t, 1, n)
	})
}

func TestConn_deadlineOfPastEndsAWaitAtOnce(t *testing.T) {
	inPipe(t, func(t *testing.T, own *conn, _ net.Conn) {
		begin := time.Now()
		require.NoError(t, own.SetReadDeadline(in(10*time.Second)))
		time.AfterFunc(time.Second, func() { _ = own.SetReadDeadline(in(-time.Second)) })
		_, err := own.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(begin))
	})
}

// The first deadline ends the write when half of it is out; the rest must follow, once.
func TestConn_writeGoesOnUnderALaterDeadline(t *testing.T) {
	inPipe(t, func(t *testing.T, own *conn, peer net.Conn) {
		require.NoError(t, own.SetWriteDeadline(in(time.Second)))
		require.NoError(t, own.SetWriteDeadline(in(10*time.Second)))
		got := make(chan string)
		go func() {
			buf := make([]byte, 10)
			first, _ := peer.Read(buf[:4])
			time.Sleep(5 * time.Second)
			rest, _ := peer.Read(buf[first:])
			got <- string(buf[:first+rest])
		}()
		n, err := own.Write([]byte("0123456789"))
		require.NoError(t, err)
		assert.Equal(t, 10, n)
		assert.Equal(t, "0123456789", <-got)

		begin := time.Now()
		require.NoError(t, own.SetWriteDeadline(in(time.Second)))
		_, err = own.Write([]byte("no peer reads this"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(begin))
	})
}

func TestConnections_readUntilCapsWhatIsSetBeforeAndAfter(t *testing.T) {
	for name, after := range map[string]bool{"before": false, "after": true} {
		t.Run(name, func(t *testing.T) {
			inPipe(t, func(t *testing.T, own *conn, _ net.Conn) {
				begin := time.Now()
				if after {
					own.conns.ReadUntil(in(2 * time.Second))
				}
				require.NoError(t, own.SetReadDeadline(in(time.Second)))
				require.NoError(t, own.SetReadDeadline(in(time.Minute)))
				if !after {
					own.conns.ReadUntil(in(2 * time.Second))
				}
				_, err := own.Read(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				assert.Equal(t, 2*time.Second, time.Since(begin))
			})
		})
	}
}
