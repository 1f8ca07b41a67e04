package failure_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// reply is an error that a server sent.
type reply string

func (e reply) Error() string { return string(e) }
func (reply) RedisError()     {}

func TestClassify(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)} }
	const trips, lives = true, false
	ran, notRun := failure.ErrMayHaveRun, ports.ErrNotRun
	for _, c := range []struct {
		err  error
		want failure.Failure
	}{
		{dial(syscall.ECONNREFUSED), failure.Failure{failure.Refused, notRun, trips}},
		{dial(syscall.EMFILE), failure.Failure{failure.Dial, notRun, trips}},
		{dial(os.ErrDeadlineExceeded), failure.Failure{failure.Dial, notRun, trips}},
		{&failure.DialError{Err: dial(syscall.ECONNREFUSED)}, failure.Failure{failure.Refused, notRun, trips}},
		{&failure.DialError{Err: errors.New("redis: all sentinels specified in configuration are unreachable")}, failure.Failure{failure.Dial, notRun, trips}},
		{&failure.DialError{Err: reply("NOAUTH Authentication required.")}, failure.Failure{failure.Auth, notRun, trips}},
		{&failure.DialError{Err: tls.RecordHeaderError{}}, failure.Failure{failure.TLS, notRun, trips}},
		{context.DeadlineExceeded, failure.Failure{failure.Dial, notRun, trips}},
		{redis.ErrPoolTimeout, failure.Failure{failure.Pool, notRun, trips}},
		{redis.ErrPoolExhausted, failure.Failure{failure.Pool, notRun, trips}},
		{&tls.CertificateVerificationError{Err: io.EOF}, failure.Failure{failure.TLS, notRun, trips}},
		{tls.RecordHeaderError{}, failure.Failure{failure.TLS, ran, trips}},
		{tls.AlertError(42), failure.Failure{failure.TLS, ran, trips}},
		{&failure.PanicError{Reason: io.EOF}, failure.Failure{failure.Panic, ran, lives}},
		{&failure.DialError{Err: redis.ErrClosed}, failure.Failure{failure.Shutdown, notRun, lives}},
		{redis.ErrClosed, failure.Failure{failure.Shutdown, notRun, lives}},
		{context.Canceled, failure.Failure{failure.Cancelled, notRun, lives}},

		{io.EOF, failure.Failure{failure.Closed, ran, trips}},
		{io.ErrUnexpectedEOF, failure.Failure{failure.Closed, ran, trips}},
		{&net.OpError{Op: "write", Err: syscall.EPIPE}, failure.Failure{failure.Closed, ran, trips}},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, failure.Failure{failure.Closed, ran, trips}},
		{os.NewSyscallError("read", syscall.ECONNRESET), failure.Failure{failure.Closed, ran, trips}},
		{net.ErrClosed, failure.Failure{failure.Closed, ran, trips}},
		{os.ErrDeadlineExceeded, failure.Failure{failure.Timeout, ran, trips}},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, failure.Failure{failure.Timeout, ran, trips}},
		{errors.New("redis: can't parse \"!\""), failure.Failure{failure.Garbled, ran, trips}},
		{errors.New("OOM in a message that no server sent"), failure.Failure{failure.Garbled, ran, trips}},
		{redis.Nil, failure.Failure{failure.Garbled, ran, trips}},

		{reply("NOSCRIPT No matching script."), failure.Failure{failure.NoScript, notRun, lives}},
		{reply("MOVED 3999 127.0.0.1:6381"), failure.Failure{failure.Moved, notRun, lives}},
		{reply("ASK 3999 127.0.0.1:6381"), failure.Failure{failure.Moved, notRun, lives}},
		{reply("TRYAGAIN Multiple keys request during rehashing of slot"), failure.Failure{failure.Moved, notRun, lives}},
		{reply("CROSSSLOT Keys in request don't hash to the same slot"), failure.Failure{failure.CrossSlot, notRun, lives}},
		{reply("ERR Script attempted to access a non local key in a cluster node"), failure.Failure{failure.Moved, notRun, lives}},
		{reply("WRONGTYPE Operation against a key holding the wrong kind of value"), failure.Failure{failure.WrongType, notRun, lives}},
		{reply("CORRUPT field b:x does not hold a bucket"), failure.Failure{failure.Corrupt, notRun, lives}},
		{reply("BUSY Redis is busy running a script."), failure.Failure{failure.Busy, notRun, trips}},
		{reply("OOM command not allowed when used memory > 'maxmemory'."), failure.Failure{failure.OOM, notRun, trips}},
		{reply("READONLY You can't write against a read only script."), failure.Failure{failure.ReadOnly, notRun, trips}},
		{reply("MASTERDOWN Link with MASTER is down"), failure.Failure{failure.MasterDown, notRun, trips}},
		{reply("LOADING Redis is loading the dataset in memory"), failure.Failure{failure.Loading, notRun, trips}},
		{reply("MISCONF Redis is configured to save RDB snapshots"), failure.Failure{failure.Misconf, notRun, trips}},
		{reply("NOREPLICAS Not enough good replicas to write."), failure.Failure{failure.NoReplicas, notRun, trips}},
		{reply("CLUSTERDOWN Hash slot not served"), failure.Failure{failure.ClusterDown, notRun, trips}},
		{reply("NOAUTH Authentication required."), failure.Failure{failure.Auth, notRun, trips}},
		{reply("ERR Protocol error: unauthenticated multibulk length"), failure.Failure{failure.Auth, notRun, trips}},
		{reply("WRONGPASS invalid username-password pair"), failure.Failure{failure.Auth, notRun, trips}},
		{reply("NOPERM no permissions"), failure.Failure{failure.NoPerm, notRun, trips}},
		{reply("NOPERM ACL failure in script: no permissions"), failure.Failure{failure.NoPerm, ran, trips}},
		{reply("ERR The user executing the script can't run this command or subcommand"), failure.Failure{failure.NoPerm, ran, trips}},
		{reply("ERR max number of clients reached"), failure.Failure{failure.MaxClients, notRun, trips}},
		{reply("DENIED Redis is running in protected mode because ..."), failure.Failure{failure.Protected, notRun, trips}},
		{reply("ERR this script needs a 64-bit server"), failure.Failure{failure.Script, notRun, trips}},
		{reply("ERR Error running script"), failure.Failure{failure.Script, ran, trips}},
	} {
		assert.Equal(t, c.want, failure.Classify(fmt.Errorf("wrapped: %w", c.err)), "%v", c.err)
	}
}
