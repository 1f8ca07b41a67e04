package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
)

// answer is an error that a server sent.
type answer string

func (e answer) Error() string { return string(e) }
func (answer) RedisError()     {}

func TestEffectOf(t *testing.T) {
	notRun := []error{
		&net.OpError{Op: "dial", Err: errors.New("connection refused")},
		redis.ErrPoolTimeout, redis.ErrPoolExhausted, redis.ErrClosed,
		context.DeadlineExceeded, context.Canceled,
		answer("NOSCRIPT No matching script."), answer("BUSY Redis is busy running a script."),
		answer("OOM command not allowed when used memory > 'maxmemory'."), answer("READONLY You can't write against a read only script."),
		answer("MASTERDOWN Link with MASTER is down"), answer("LOADING Redis is loading the dataset in memory"),
		answer("MISCONF Redis is configured to save RDB snapshots"), answer("NOREPLICAS Not enough good replicas to write."),
		answer("NOAUTH Authentication required."), answer("WRONGPASS invalid username-password pair"), answer("NOPERM no permissions"),
		answer("ERR max number of clients reached"), answer("MOVED 3999 127.0.0.1:6381"),
	}
	for _, err := range notRun {
		assert.Equal(t, "not carried out", redisstore.EffectOf(fmt.Errorf("wrapped: %w", err)), "%v", err)
	}
	mayHaveRun := []error{
		io.EOF, io.ErrUnexpectedEOF, os.ErrDeadlineExceeded,
		&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded},
		&net.OpError{Op: "write", Err: errors.New("broken pipe")},
		errors.New("redis: can't parse \"!\""), errors.New("OOM in a message that no server sent"),
		answer("ERR Error running script"), redis.Nil,
	}
	for _, err := range mayHaveRun {
		assert.Equal(t, "may have been carried out", redisstore.EffectOf(fmt.Errorf("wrapped: %w", err)), "%v", err)
	}
}
