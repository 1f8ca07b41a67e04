package conn

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// at stands for a connection to a server.
type at struct {
	net.Conn
	server net.IP
}

func (c at) RemoteAddr() net.Addr { return &net.TCPAddr{IP: c.server} }

func TestWatchPrimary_countsAFailoverOnce(t *testing.T) {
	failovers := 0
	server := func(last byte) at { return at{server: net.IPv4(10, 0, 0, last)} }
	before, after := server(1), server(2)
	connect := func(conn net.Conn) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	}
	watch := watchPrimary(func() { failovers++ })
	dial := func(to func(context.Context, string, string) (net.Conn, error)) {
		t.Helper()
		_, err := watch(to)(t.Context(), "tcp", "")
		require.NoError(t, err)
	}
	dial(connect(before))
	dial(connect(before))
	assert.Zero(t, failovers, "another connection to the same server")
	dial(func(context.Context, string, string) (net.Conn, error) { // one that is slow, to the primary of before
		dial(connect(after))
		return before, nil
	})
	assert.Equal(t, 1, failovers)
	dial(connect(after))
	assert.Equal(t, 1, failovers)
	dial(connect(before))
	assert.Equal(t, 2, failovers, "it is the primary again")
	dial(func(context.Context, string, string) (net.Conn, error) { // a slow one, meanwhile there were two failovers
		dial(connect(server(3)))
		return server(4), nil
	})
	assert.Equal(t, 4, failovers)
}

func TestWatchPrimary_countsAFailoverDuringTheFirstConnections(t *testing.T) {
	failovers := 0
	watch := watchPrimary(func() { failovers++ })
	_, err := watch(func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, err := watch(func(context.Context, string, string) (net.Conn, error) {
			return at{server: net.IPv4(10, 0, 0, 1)}, nil
		})(ctx, network, addr)
		return at{server: net.IPv4(10, 0, 0, 2)}, err
	})(t.Context(), "tcp", "")
	require.NoError(t, err)
	assert.Equal(t, 1, failovers)
}
