package conn

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// Connections move to another host when their name points there, even if none of them breaks: each is closed after its
// lifetime, which is short here.
func TestConnections_moveToTheHostThatTheNameNames(t *testing.T) {
	const patience = 20 * time.Second
	first, second := redistest.Start(t), redistest.Start(t)
	_, port, err := net.SplitHostPort(first.Addr)
	require.NoError(t, err)
	relay(t, net.JoinHostPort("127.0.0.2", port), second.Addr)

	var at atomic.Pointer[netip.Addr]
	point := func(to string) {
		addr := netip.MustParseAddr(to)
		at.Store(&addr)
	}
	point("127.0.0.1")
	options := func(lifetime time.Duration) *redis.Options {
		all := Options{Credentials: Fixed("", ""), PoolSize: 1, DialTimeout: patience, Timeout: patience}
		o := all.universal(net.JoinHostPort("redis.test.", port)).Simple()
		require.Positive(t, o.ConnMaxLifetime)
		o.ConnMaxLifetime, o.ConnMaxLifetimeJitter = lifetime, 0
		dialer := net.Dialer{Timeout: patience, Resolver: resolver(t, &at)}
		o.Dialer = dialer.DialContext
		return o
	}
	short, long := redis.NewClient(options(100*time.Millisecond)), redis.NewClient(options(time.Hour))
	defer func() { assert.NoError(t, short.Close()); assert.NoError(t, long.Close()) }()
	serves := func(c *redis.Client) string {
		name, err := c.ConfigGet(t.Context(), "port").Result()
		require.NoError(t, err, "no command fails on the way")
		return net.JoinHostPort("127.0.0.1", name["port"])
	}
	require.Equal(t, first.Addr, serves(short))
	require.Equal(t, first.Addr, serves(long))
	point("127.0.0.2")
	require.Eventually(t, func() bool { return serves(short) == second.Addr }, patience, 10*time.Millisecond)
	assert.Equal(t, first.Addr, serves(long), "its connection lives")
}

// relay lets a server be reached at another address, too.
func relay(t *testing.T, from, to string) {
	t.Helper()
	ln, err := net.Listen("tcp", from)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				return
			}
			go pass(near, far)
			go pass(far, near)
		}
	}()
}

func pass(from, to net.Conn) {
	_, _ = from.(*net.TCPConn).WriteTo(to) // until either end has gone
	_ = from.Close()
	_ = to.Close()
}

// resolver asks a name server of the test, which answers each question for an IPv4 address with at, and others with none.
func resolver(t *testing.T, at *atomic.Pointer[netip.Addr]) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	go func() {
		query := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(query)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(nameAnswer(query[:n], *at.Load()), from) // who asks will ask again
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

// nameAnswer answers a query of one question, which a header of 12 bytes precedes: a name of counted labels, a type, a class.
func nameAnswer(query []byte, at netip.Addr) []byte {
	end := 12
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	kind := binary.BigEndian.Uint16(query[end+1:])
	answer := append([]byte{}, query[:end+5]...)
	copy(answer[2:], []byte{0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}) // an answer that is final, one question, nothing else
	if kind == 1 {                                            // an IPv4 address
		answer[7] = 1
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name above, its type and class, no time to keep it
		answer = append(answer, at.AsSlice()...)
	}
	return answer
}
