package redisstore

import (
	"context"
	"net"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// dialError is a failure to connect: whatever was to be sent has not been.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dialHook makes a failure to connect one of the connection's first use. Else go-redis counts such failures over all
// outages, and when they are as many as a pool has connections it tries to connect only once a second, so that a
// shard which is back is not asked. When a shard is asked is for its breaker to say.
type dialHook struct{}

var _ redis.Hook = dialHook{}

// DialHook implements redis.Hook.
func (dialHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return deadConn{&dialError{err}}, nil
		}
		return conn, nil
	}
}

// ProcessHook implements redis.Hook.
func (dialHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (dialHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// deadConn is a connection that never came about.
type deadConn struct{ err *dialError }

var (
	_ net.Conn     = deadConn{}
	_ syscall.Conn = deadConn{}
)

func (c deadConn) Read([]byte) (int, error)  { return 0, c.err }
func (c deadConn) Write([]byte) (int, error) { return 0, c.err }

// SyscallConn is how go-redis looks whether an idle connection lives before it uses it.
func (c deadConn) SyscallConn() (syscall.RawConn, error) { return nil, c.err }

func (deadConn) Close() error                     { return nil }
func (deadConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (deadConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (deadConn) SetDeadline(time.Time) error      { return nil }
func (deadConn) SetReadDeadline(time.Time) error  { return nil }
func (deadConn) SetWriteDeadline(time.Time) error { return nil }
