package conn

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
)

// dialHook is a hook of go-redis for connecting only.
type dialHook func(next redis.DialHook) redis.DialHook

var _ redis.Hook = dialHook(nil)

// DialHook implements redis.Hook.
func (h dialHook) DialHook(next redis.DialHook) redis.DialHook { return h(next) }

// ProcessHook implements redis.Hook.
func (dialHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (dialHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// deferDialErrors turns a failure to connect into a failure of the connection's first use. go-redis itself counts failures
// to connect over the whole life of a pool, and once they are as many as the pool's size it tries to connect only once a
// second. So a server that is back would not be asked. When a server is asked is for its circuit breaker to decide.
func deferDialErrors(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return deadConn{&failure.DialError{Err: err}}, nil
		}
		return conn, nil
	}
}

// watchPrimary calls onFailover when a new connection leads to another address than the last. It does not see the
// connections to sentinels. One that began before the last change may still lead to the primary of before, and is no failover. If
// the primary has changed twice meanwhile, such a connection counts as a failover, which only clears the denial cache once more.
func watchPrimary(onFailover func()) dialHook {
	var mu sync.Mutex
	var primary, before string
	var changes int
	return func(next redis.DialHook) redis.DialHook {
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			began := changes
			mu.Unlock()
			conn, err := next(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			remote := conn.RemoteAddr().String()
			mu.Lock()
			changed := remote != primary && (remote != before || changes == began)
			if changed {
				primary, before, changes = remote, primary, changes+1
			}
			failover := changed && before != ""
			mu.Unlock()
			if failover {
				onFailover()
			}
			return conn, nil
		}
	}
}

// deadConn stands for a connection that could not be made.
type deadConn struct{ err *failure.DialError }

var (
	_ net.Conn     = deadConn{}
	_ syscall.Conn = deadConn{}
)

func (c deadConn) Read([]byte) (int, error)  { return 0, c.err }
func (c deadConn) Write([]byte) (int, error) { return 0, c.err }

// SyscallConn implements syscall.Conn. go-redis calls it to check an idle connection before it uses it.
func (c deadConn) SyscallConn() (syscall.RawConn, error) { return nil, c.err }

func (deadConn) Close() error                     { return nil }
func (deadConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (deadConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (deadConn) SetDeadline(time.Time) error      { return nil }
func (deadConn) SetReadDeadline(time.Time) error  { return nil }
func (deadConn) SetWriteDeadline(time.Time) error { return nil }
