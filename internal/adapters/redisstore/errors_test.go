package redisstore_test

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

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// answer is an error that a server sent.
type answer string

func (e answer) Error() string { return string(e) }
func (answer) RedisError()     {}

func TestClassify(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)} }
	const ran, notRun, trips, lives = false, true, true, false // what Failure's fields say
	for _, c := range []struct {
		err  error
		want redisstore.Failure
	}{
		{dial(syscall.ECONNREFUSED), redisstore.Failure{ports.FailureRefused, notRun, trips}},
		{dial(syscall.EMFILE), redisstore.Failure{ports.FailureDial, notRun, trips}},
		{dial(os.ErrDeadlineExceeded), redisstore.Failure{ports.FailureDial, notRun, trips}},
		{redisstore.DialError(dial(syscall.ECONNREFUSED)), redisstore.Failure{ports.FailureRefused, notRun, trips}},
		{redisstore.DialError(errors.New("redis: all sentinels specified in configuration are unreachable")), redisstore.Failure{ports.FailureDial, notRun, trips}},
		{redisstore.DialError(answer("NOAUTH Authentication required.")), redisstore.Failure{ports.FailureAuth, notRun, trips}},
		{redisstore.DialError(tls.RecordHeaderError{}), redisstore.Failure{ports.FailureTLS, notRun, trips}},
		{context.DeadlineExceeded, redisstore.Failure{ports.FailureDial, notRun, trips}},
		{redis.ErrPoolTimeout, redisstore.Failure{ports.FailurePool, notRun, trips}},
		{redis.ErrPoolExhausted, redisstore.Failure{ports.FailurePool, notRun, trips}},
		{&tls.CertificateVerificationError{Err: io.EOF}, redisstore.Failure{ports.FailureTLS, notRun, trips}},
		{tls.RecordHeaderError{}, redisstore.Failure{ports.FailureTLS, ran, trips}},
		{tls.AlertError(42), redisstore.Failure{ports.FailureTLS, ran, trips}},
		{redis.ErrClosed, redisstore.Failure{ports.FailureShutdown, notRun, lives}},
		{context.Canceled, redisstore.Failure{ports.FailureCancelled, notRun, lives}},

		{io.EOF, redisstore.Failure{ports.FailureClosed, ran, trips}},
		{io.ErrUnexpectedEOF, redisstore.Failure{ports.FailureClosed, ran, trips}},
		{&net.OpError{Op: "write", Err: syscall.EPIPE}, redisstore.Failure{ports.FailureClosed, ran, trips}},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, redisstore.Failure{ports.FailureClosed, ran, trips}},
		{os.NewSyscallError("read", syscall.ECONNRESET), redisstore.Failure{ports.FailureClosed, ran, trips}},
		{net.ErrClosed, redisstore.Failure{ports.FailureClosed, ran, trips}},
		{os.ErrDeadlineExceeded, redisstore.Failure{ports.FailureTimeout, ran, trips}},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, redisstore.Failure{ports.FailureTimeout, ran, trips}},
		{errors.New("redis: can't parse \"!\""), redisstore.Failure{ports.FailureGarbled, ran, trips}},
		{errors.New("OOM in a message that no server sent"), redisstore.Failure{ports.FailureGarbled, ran, trips}},
		{redis.Nil, redisstore.Failure{ports.FailureGarbled, ran, trips}},

		{answer("NOSCRIPT No matching script."), redisstore.Failure{ports.FailureNoScript, notRun, lives}},
		{answer("MOVED 3999 127.0.0.1:6381"), redisstore.Failure{ports.FailureMoved, notRun, lives}},
		{answer("ASK 3999 127.0.0.1:6381"), redisstore.Failure{ports.FailureMoved, notRun, lives}},
		{answer("TRYAGAIN Multiple keys request during rehashing of slot"), redisstore.Failure{ports.FailureMoved, notRun, lives}},
		{answer("CROSSSLOT Keys in request don't hash to the same slot"), redisstore.Failure{ports.FailureCrossSlot, notRun, lives}},
		{answer("ERR Script attempted to access a non local key in a cluster node"), redisstore.Failure{ports.FailureCrossSlot, ran, lives}},
		{answer("WRONGTYPE Operation against a key holding the wrong kind of value"), redisstore.Failure{ports.FailureWrongType, notRun, lives}},
		{answer("CORRUPT field b:x does not hold a bucket"), redisstore.Failure{ports.FailureCorrupt, notRun, lives}},
		{answer("BUSY Redis is busy running a script."), redisstore.Failure{ports.FailureBusy, notRun, trips}},
		{answer("OOM command not allowed when used memory > 'maxmemory'."), redisstore.Failure{ports.FailureOOM, notRun, trips}},
		{answer("READONLY You can't write against a read only script."), redisstore.Failure{ports.FailureReadOnly, notRun, trips}},
		{answer("MASTERDOWN Link with MASTER is down"), redisstore.Failure{ports.FailureMasterDown, notRun, trips}},
		{answer("LOADING Redis is loading the dataset in memory"), redisstore.Failure{ports.FailureLoading, notRun, trips}},
		{answer("MISCONF Redis is configured to save RDB snapshots"), redisstore.Failure{ports.FailureMisconf, notRun, trips}},
		{answer("NOREPLICAS Not enough good replicas to write."), redisstore.Failure{ports.FailureNoReplicas, notRun, trips}},
		{answer("CLUSTERDOWN Hash slot not served"), redisstore.Failure{ports.FailureClusterDown, notRun, trips}},
		{answer("NOAUTH Authentication required."), redisstore.Failure{ports.FailureAuth, notRun, trips}},
		{answer("ERR Protocol error: unauthenticated multibulk length"), redisstore.Failure{ports.FailureAuth, notRun, trips}},
		{answer("WRONGPASS invalid username-password pair"), redisstore.Failure{ports.FailureAuth, notRun, trips}},
		{answer("NOPERM no permissions"), redisstore.Failure{ports.FailureNoPerm, notRun, trips}},
		{answer("ERR The user executing the script can't run this command or subcommand"), redisstore.Failure{ports.FailureNoPerm, ran, trips}},
		{answer("ERR max number of clients reached"), redisstore.Failure{ports.FailureMaxClients, notRun, trips}},
		{answer("ERR this script needs a 64-bit server"), redisstore.Failure{ports.FailureScript, notRun, trips}},
		{answer("ERR Error running script"), redisstore.Failure{ports.FailureScript, ran, trips}},
	} {
		assert.Equal(t, c.want, redisstore.Classify(fmt.Errorf("wrapped: %w", c.err)), "%v", c.err)
	}
}
