// Package conn makes the clients of Redis servers: of one server, of a Redis Cluster, and of a primary behind Sentinel.
package conn

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// connMaxLifetime bounds how long a connection stays on a host that its name no longer points to, and has a password that
	// was replaced.
	connMaxLifetime = 5 * time.Minute
	// maxConcurrentDials keeps all connections of a pool from being made at once when a server is back.
	maxConcurrentDials = 4
	// maxRedirects is how often a command is redirected in a Cluster: the table of slots may be stale, and the slot may be
	// moving as well.
	maxRedirects = 3
	// tableMaxAge is when the table of slots is read again though nothing went wrong.
	tableMaxAge = 10 * time.Second
)

// Options are what clients need to know.
type Options struct {
	Dialer      *Dialer // of all connections; its owner closes it
	Credentials Credentials
	Database    int
	TLS         *tls.Config // nil: no TLS
	PoolSize    int         // most connections to one server
	DialTimeout time.Duration
	Timeout     time.Duration // of waiting for a connection, of sending and of receiving
	Lifetime    time.Duration // of a connection, at most, and a tenth more; 0: connMaxLifetime
}

// universal spells out every setting on which the promises of package redisstore rest; go-redis's defaults are made for
// commands that may be repeated.
func (o *Options) universal(addrs ...string) *redis.UniversalOptions {
	lifetime := cmp.Or(o.Lifetime, connMaxLifetime)
	return &redis.UniversalOptions{
		Addrs: addrs,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return o.Dialer.dial(ctx, o.DialTimeout, o.TLS, network, addr)
		},
		TLSConfig: o.TLS,
		DB:        o.Database,

		CredentialsProviderContext: o.Credentials.resolve,

		// A script must not run twice: 0 would mean 3 retries, even after the reply was lost.
		MaxRetries: -1,
		// The caller's deadline counts while a reply is read; by default it does not.
		ContextTimeoutEnabled: true,
		// By default a refused connection is tried 5 times, 100 ms apart.
		DialerRetries: 1,

		DialTimeout:  o.DialTimeout,
		ReadTimeout:  o.Timeout,
		WriteTimeout: o.Timeout,
		PoolTimeout:  o.Timeout,

		PoolSize:              o.PoolSize,
		MaxActiveConns:        o.PoolSize,
		MaxConcurrentDials:    min(maxConcurrentDials, o.PoolSize),
		PipelinePoolSize:      -1, // no pool beside this one
		ConnMaxLifetime:       lifetime,
		ConnMaxLifetimeJitter: lifetime / 10,
		ConnMaxIdleTime:       lifetime,

		// RESP2: the reply is integers and strings alone, and the server sends nothing that was not asked for.
		Protocol:                 2,
		DisableIdentity:          true, // no CLIENT SETINFO, which an ACL would have to allow
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// Client returns a client of one server.
func (o *Options) Client(addr string) *redis.Client {
	client := redis.NewClient(o.universal(addr).Simple())
	client.AddHook(dialHook(deferDialErrors))
	return client
}

// Cluster returns a client of a Redis Cluster. Its commands retry unless their NoRetry says otherwise.
func (o *Options) Cluster(seeds []string) *redis.ClusterClient {
	options := o.universal(seeds...).Cluster()
	// Without redirects go-redis follows no ASK. They are no retries: a node that redirects has run nothing.
	options.MaxRedirects = maxRedirects
	options.MinRetryBackoff, options.MaxRetryBackoff = -1, -1 // a redirect is followed at once
	options.ClusterStateReloadInterval = tableMaxAge
	client := redis.NewClusterClient(options)
	client.OnNewNode(func(node *redis.Client) { node.AddHook(dialHook(deferDialErrors)) })
	return client
}

// Sentinel names a primary, and the sentinels to ask for its address.
type Sentinel struct {
	Primary     string
	Addrs       []string
	Credentials Credentials // of the sentinels
}

// Failover returns a client of a primary behind Sentinel. It asks a sentinel before each connection, and drops its
// connections when a sentinel announces another primary. It calls onFailover when it has connected to another primary than
// before, before anything is decided there.
func (o *Options) Failover(s Sentinel, onFailover func()) *redis.Client {
	options := o.universal(s.Addrs...)
	options.MasterName = s.Primary
	options.OnConnect = s.login
	client := redis.NewFailoverClient(options.Failover())
	client.AddHook(dialHook(deferDialErrors)) // the first hook is the outermost: the other sees failures as they are
	client.AddHook(watchPrimary(onFailover))
	return client
}

// Borrow returns the caller's client, or one with its connections, which waits for a reply no longer than its context or than the
// timeout. It must not be closed. If the client's ContextTimeoutEnabled is set, that is the client itself, with its hooks; otherwise
// go-redis leaves them out. The client's other options stay as they are. So commands that must not run twice have to say so
// themselves; and while a server is down, go-redis may try to connect only once a second.
func Borrow(client *redis.Client, timeout time.Duration) *redis.Client {
	if client.Options().ContextTimeoutEnabled {
		return client
	}
	return client.WithTimeout(timeout)
}
