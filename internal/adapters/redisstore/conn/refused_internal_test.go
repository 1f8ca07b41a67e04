package conn

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// A server in protected mode says why it refuses, and closes the connection before it reads anything. The client may send first, or read first.
func TestConn_failsWithWhatTheServerSaid(t *testing.T) {
	for name, use := range map[string]func(net.Conn) error{
		"written": func(cn net.Conn) (err error) {
			for err == nil { // the first may still be taken by the kernel
				_, err = cn.Write([]byte("PING\r\n"))
			}
			return err
		},
		"read": func(cn net.Conn) error {
			_, err := cn.Read(make([]byte, 512))
			return err
		},
		"read, and written all the same": func(cn net.Conn) error {
			_, _ = cn.Read(make([]byte, 512))
			_, err := cn.Write([]byte("PING\r\n"))
			return err
		},
		"read, and read all the same": func(cn net.Conn) error {
			_, _ = cn.Read(make([]byte, 512))
			_, err := cn.Read(make([]byte, 512))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := use(connectToRefusing(t))
			assert.ErrorContains(t, err, "DENIED Redis is running in protected mode")
			assert.Equal(t, failure.Failure{Kind: failure.Protected, Effect: ports.ErrNotRun, Trips: true}, failure.Classify(err))
		})
	}
}

// connectToRefusing connects to a server that has refused the connection.
func connectToRefusing(t *testing.T) net.Conn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		peer, err := listener.Accept()
		if assert.NoError(t, err) {
			_, err = peer.Write([]byte("-DENIED Redis is running in protected mode\r\n"))
			assert.NoError(t, err)
			assert.NoError(t, peer.Close())
		}
		assert.NoError(t, listener.Close())
	}()
	dialer := NewDialer()
	t.Cleanup(dialer.Close)
	cn, err := dialer.dial(t.Context(), time.Minute, nil, "tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cn.Close()) })
	<-closed
	return cn
}
