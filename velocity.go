// Package velocity limits rates in a Go program. The limits are exact within the process, or across all processes that share
// Redis.
//
// A [Limiter] has policies. A policy gives each key, such as a user or an address, a count of its own for each of its limits.
// A limit is a token bucket, such as [PerSecond], which holds Capacity tokens and refills at a constant rate; a [Quota],
// a number of tokens in each day, month or other period; or a number of requests at once, [Concurrent].
// [Limiter.Allow] takes one token, [Limiter.AllowN] takes several, [Limiter.Wait] waits for one, [Limiter.Reserve] says
// how long to wait, and [Limiter.Acquire] takes until the work is done. Packages velocityhttp, velocitygrpc and velocityfiber
// put a limiter in front of a server.
//
// While the store answers, a key never gets more than capacity + refill * elapsed / per tokens from a bucket, never
// more than the quota in a period, and never holds more permits than a concurrency limit has, regardless of how many processes
// ask at the same time. If the store fails, the policy's [Failure] mode decides, and the failure is logged.
// [Limiter.Ping] finds a store that cannot be reached when the program starts.
package velocity

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// DefaultPolicy is the name of the policy that a new [Limiter] uses.
const DefaultPolicy = policy.DefaultName

var (
	// ErrUnavailable means that the store did not answer. [Limiter.Ping] returns it; [Limiter.Wait] if the policy is [Closed];
	// and [Limiter.Refund], [Limiter.Charge] and [Limiter.Reset] if the operation may or may not have been carried out.
	ErrUnavailable = ports.ErrUnavailable
	// ErrOverloaded means that too many requests of this process wait for Redis. [Limiter.Refund], [Limiter.Charge],
	// [Limiter.Reset] and [Limiter.Ping] return it. The operation was not carried out, and is safe to repeat.
	ErrOverloaded = ports.ErrOverloaded
	// ErrNever means that waiting cannot help, because the request asks for more tokens than the capacity.
	ErrNever = errors.New("velocity: the cost is above the capacity")
	// ErrInvalid means that the request is wrong: an empty key, or a cost out of range. Nothing was taken.
	ErrInvalid = domain.ErrInvalidRequest
	// ErrNeedsPermit means that the policy has a concurrency limit: only [Limiter.Acquire] takes from it. Nothing was taken.
	ErrNeedsPermit = ports.ErrCannotHold
	// ErrPermitEnded means that a permit ended while it was held: Redis was away for longer than its lease, Redis lost it, or an
	// operator ended it. [Config.OnFailure] gets it. The work goes on, and others may hold the permit meanwhile.
	ErrPermitEnded = ports.ErrPermitEnded
	// ErrUnknownPolicy means that the configuration has no policy of this name.
	ErrUnknownPolicy = ports.ErrUnknownPolicy
	// ErrDebt means that [Limiter.Charge] would take a limit further below zero than it can be: a bucket's refill to zero
	// would take over 100 years, or a quota would be exceeded by over 2^52 tokens. Nothing was charged.
	ErrDebt = domain.ErrDebtExceeded
)

// Config has the limits, and says where the buckets are kept: in memory, unless Redis or RedisClient is set.
type Config struct {
	// Limits of the policy [DefaultPolicy]. A request takes from all of them or from none. At most one may be without a name.
	Limits []Limit
	// Failure is the failure mode of every policy that has none of its own. Empty means [Open].
	Failure Failure
	// Policies are further policies, for [Limiter.Policy]. A policy named "default" may take the place of Limits. Without
	// either, the limiter that [New] returns has no policy of its own: every decision needs Policy, or fails with
	// [ErrUnknownPolicy].
	Policies []Policy

	// KeySecret, if it is not empty, says that the keys are secrets, such as API keys: Redis, and the texts of permits, then hold an
	// HMAC-SHA-256 of each key under this secret, and never the key. It has at least 16 bytes, which should be random, and is the same
	// in every process. Another secret gives every key full buckets.
	KeySecret string

	// Redis has one entry for each server: "host:port", or a URL, "redis://user:password@host:port/database" or "rediss://..."
	// for TLS. What a URL does not say is as in the fields below. The keys are spread over the servers by their addresses; in
	// "name=host:port" the name takes the place of the address, so that the server can move without its keys. The scheme,
	// the user and the password do not move keys.
	//
	// If Redis and RedisClient are empty, the limits are those of this process alone.
	Redis []string
	// RedisClient is a client of your own to use instead: a *redis.Client, of one server or of a primary behind Sentinel, or
	// a *redis.ClusterClient. You close it, after the limiter. A decision is sent once, whatever the client's MaxRetries is.
	// A *redis.Ring is refused, since it moves keys to other servers while one is down.
	RedisClient redis.UniversalClient
	// RedisUsername and RedisPassword are for servers that require them. RedisDatabase is the number of the database.
	RedisUsername, RedisPassword string
	RedisDatabase                int
	// RedisCredentials, if it is not nil, takes the place of RedisUsername and RedisPassword, for passwords that change and for
	// tokens, such as those of IAM or Entra ID. It is called for each new connection, from several goroutines. It must return
	// at once what the program has at hand, since a decision may wait for the connection: refresh tokens in the background. A
	// connection is used for at most 5.5 minutes, so a token must be valid for that long when it is returned. An error, which
	// must not show a secret, fails the connection. The user and the password of a URL have precedence for its server.
	RedisCredentials func(ctx context.Context) (username, password string, err error)
	// RedisTLS turns on TLS, with the system's certificate authorities or those in the PEM file RedisCAFile.
	RedisTLS    bool
	RedisCAFile string
	// RedisTLSConfig turns on TLS with settings of your own. It is copied.
	RedisTLSConfig *tls.Config
	// RedisCluster says that the servers are nodes of one Redis Cluster, which knows the others and owns the keys.
	RedisCluster bool
	// RedisSentinel says that the servers are sentinels. It is the name by which they know the primary.
	RedisSentinel string
	// TakeTimeout bounds how long a decision may wait for Redis. Zero means 50 ms. Without Redis it is an error.
	TakeTimeout time.Duration

	// MaxKeys bounds the number of buckets in memory. Beyond it the fullest are evicted. Zero means a million. A million buckets
	// take 101 bytes of live heap each, with a key of 25 characters, and 175 bytes of resident memory.
	MaxKeys int
	// Now is the clock of limits in memory, for tests. Nil means the system's. It is called by several goroutines, one of
	// them the limiter's own. Wait sleeps by the system's clock all the same;
	// package testing/synctest replaces both. With Redis it is an error: Redis has the clock there.
	Now func() time.Time

	// OnFailure, if it is not nil, is called with the cause for each decision, charge and refund that the store failed to
	// make, when the renewal or the release of a permit first fails or is given up, and with [ErrPermitEnded] for each permit that
	// ended while it was held. It must not block. Failures are then not logged, unless Logger is set.
	OnFailure func(policyName string, cause error)
	// Logger gets a line when the store fails, at most one in 10 seconds, with the number of decisions that failed since the
	// last line. Nil means slog.Default().
	Logger *slog.Logger
}

// Policy is a named set of limits.
type Policy struct {
	// Name is part of the name of each bucket. It must match [a-z0-9][a-z0-9_-]{0,62}.
	Name string
	// Limits of the policy. A request takes from all of them or from none. At most one may be without a name.
	Limits []Limit
	// Failure is the failure mode. Empty means that of the [Config].
	Failure Failure
	// MaxWait is how long [Limiter.Reserve], [Limiter.Acquire] and the middlewares let a request wait for tokens that a bucket is
	// yet to refill, instead of denying it: at most an hour. Zero means that they let none wait. It needs a bucket: the other
	// kinds of limits lend nothing.
	MaxWait time.Duration
}

// Failure is a failure mode: what to decide while the store fails. If instead too many requests of this process wait for Redis,
// the memory of this process decides, also under [Open], so that a flood of requests does not let itself pass; [Closed] refuses.
type Failure string

// The failure modes.
const (
	Open   Failure = "open"   // allow
	Closed Failure = "closed" // refuse
	Local  Failure = "local"  // decide in this process's memory
)
