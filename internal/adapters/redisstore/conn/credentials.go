package conn

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
)

// Credentials returns the user and the password of a new connection. Both may be empty. So a password that changes is used from
// the next connection on, and connMaxLifetime is when the last connection has it. Servers do not close the others: the old
// password is asked for when a connection is made, only.
//
// go-redis can also change the password of the connections that it has, by its StreamingCredentialsProvider. But for as long as
// that takes it refuses the commands for which a pool of limited size has no connection left (ErrPoolExhausted): with 25 changes
// in 5 s, 108,020 of 124,020 commands failed (9.23). And a connection may be lost until a timeout (its issue 4027).
type Credentials func(context.Context) (username, password string, err error)

// Fixed returns credentials that stay the same.
func Fixed(username, password string) Credentials {
	return func(context.Context) (string, string, error) { return username, password, nil }
}

// resolve calls c, and marks an error as one from before anything was sent. c may be a function of a program that embeds the
// limiter: a panic of it is an error.
func (c Credentials) resolve(ctx context.Context) (username, password string, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("a panic: %v", reason)
		}
		if err != nil {
			err = &failure.DialError{Err: fmt.Errorf("the credentials are not known: %w", err)}
		}
	}()
	return c(ctx)
}

// primaryPrefix is how a connection to the primary of a failover client describes itself: it has no address of its own.
const primaryPrefix = "Redis<FailoverClient "

// login authenticates a new connection to a sentinel, and does nothing for the primary. go-redis itself knows one password of the
// sentinels only, which cannot change.
func (s Sentinel) login(ctx context.Context, cn *redis.Conn) error {
	if strings.HasPrefix(cn.String(), primaryPrefix) {
		return nil
	}
	username, password, err := s.Credentials.resolve(ctx)
	switch {
	case err != nil:
		return err
	case password == "":
		return nil
	case username == "":
		err = cn.Auth(ctx, password).Err()
	default:
		err = cn.AuthACL(ctx, username, password).Err()
	}
	if err != nil {
		return errors.Join(errSentinelLogin, err)
	}
	return nil
}

var errSentinelLogin = errors.New("a sentinel refuses the password")
