package conn

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
)

// A server in protected mode says why it refuses, and closes the connection before anything is sent.
func TestWrite_failsWithWhatTheServerSaid(t *testing.T) {
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

	for err == nil { // the first may still be taken by the kernel
		_, err = cn.Write([]byte("PING\r\n"))
	}
	assert.ErrorContains(t, err, "DENIED Redis is running in protected mode")
	assert.Equal(t, failure.Failure{Kind: failure.Protected, Effect: failure.NotRun, Trips: true}, failure.Classify(err))
}
