package redisstore

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// newFailoverClient makes a client of the primary that the sentinels name, with every setting of clientOptions. It
// asks a sentinel before each connection, and drops its connections when a sentinel announces another primary.
func (c *Config) newFailoverClient(sentinels []address, tlsConfig *tls.Config, onFailover func()) *redis.Client {
	one := c.clientOptions("", tlsConfig)
	opt := &redis.FailoverOptions{
		MasterName:       c.SentinelMaster,
		SentinelAddrs:    hostPorts(sentinels),
		SentinelUsername: c.SentinelUsername,
		SentinelPassword: string(c.SentinelPassword),

		TLSConfig:             one.TLSConfig,
		Username:              one.Username,
		Password:              one.Password,
		MaxRetries:            one.MaxRetries,
		ContextTimeoutEnabled: one.ContextTimeoutEnabled,
		DialerRetries:         one.DialerRetries,
		DialTimeout:           one.DialTimeout,
		ReadTimeout:           one.ReadTimeout,
		WriteTimeout:          one.WriteTimeout,
		PoolTimeout:           one.PoolTimeout,
		PoolSize:              one.PoolSize,
		MaxActiveConns:        one.MaxActiveConns,
		MaxConcurrentDials:    one.MaxConcurrentDials,
		PipelinePoolSize:      one.PipelinePoolSize,
		ConnMaxLifetime:       one.ConnMaxLifetime,
		ConnMaxLifetimeJitter: one.ConnMaxLifetimeJitter,
		ConnMaxIdleTime:       one.ConnMaxIdleTime,
		Protocol:              one.Protocol,
		DisableIdentity:       one.DisableIdentity,
	}
	client := redis.NewFailoverClient(opt)
	client.AddHook(dialHook{}) // the first is the outermost: the other sees failures as they are
	client.AddHook(&primaryWatch{changed: onFailover})
	return client
}

// primaryWatch notices another primary by the address of a new connection to it, which is before anything can be
// decided there.
type primaryWatch struct {
	changed func()
	last    atomic.Pointer[string]
}

var _ redis.Hook = (*primaryWatch)(nil)

// DialHook implements redis.Hook. The connections to sentinels do not come by here.
func (w *primaryWatch) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		remote := conn.RemoteAddr().String()
		if last := w.last.Swap(&remote); last != nil && *last != remote {
			w.changed()
		}
		return conn, nil
	}
}

// ProcessHook implements redis.Hook.
func (w *primaryWatch) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (w *primaryWatch) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
