package redisstore

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// connMaxLifetime bounds how long a connection stays on a host that its name no longer points to.
	connMaxLifetime       = 5 * time.Minute
	connMaxLifetimeJitter = 30 * time.Second
	// maxConcurrentDials keeps a shard that comes back from being met by all of the pool's connections at once.
	maxConcurrentDials = 4
)

// clientOptions spells out every setting on which the promises of this package rest; go-redis's defaults are made
// for commands that may be repeated.
func (c *Config) clientOptions(addr string, tlsConfig *tls.Config) *redis.Options {
	return &redis.Options{
		Addr:      addr,
		TLSConfig: tlsConfig,
		Username:  c.Username,
		Password:  string(c.Password),

		// A script must not run twice: 0 would mean 3 retries, even after the reply was lost.
		MaxRetries: -1,
		// The caller's deadline counts while a reply is read; by default it does not.
		ContextTimeoutEnabled: true,
		// By default a refused connection is tried 5 times, 100 ms apart.
		DialerRetries: 1,

		DialTimeout:  c.DialTimeout,
		ReadTimeout:  c.TakeTimeout,
		WriteTimeout: c.TakeTimeout,
		PoolTimeout:  c.TakeTimeout,

		PoolSize:              c.PoolSize,
		MaxActiveConns:        c.PoolSize,
		MaxConcurrentDials:    min(maxConcurrentDials, c.PoolSize),
		PipelinePoolSize:      -1, // no pool beside this one
		ConnMaxLifetime:       connMaxLifetime,
		ConnMaxLifetimeJitter: connMaxLifetimeJitter,
		ConnMaxIdleTime:       connMaxLifetime,

		// RESP2: the reply is integers and strings alone, and nothing arrives that was not asked for.
		Protocol:                 2,
		DisableIdentity:          true, // CLIENT SETINFO is no command of ours, and an ACL need not allow it
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// newClient makes the client of one shard.
func (c *Config) newClient(addr string, tlsConfig *tls.Config) *redis.Client {
	client := redis.NewClient(c.clientOptions(addr, tlsConfig))
	client.AddHook(dialHook{})
	return client
}

// tlsConfig returns nil without TLS. A file that cannot be read is an error of the configuration, found at the
// start; a server whose certificate does not fit is found when it is asked.
func (c *Config) tlsConfig() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if c.TLSCAFile != "" {
		pem, err := os.ReadFile(c.TLSCAFile)
		if err != nil {
			return nil, fmt.Errorf(envPrefix+"REDIS_TLS_CA_FILE: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf(envPrefix+"REDIS_TLS_CA_FILE: %s: holds no certificate in PEM", c.TLSCAFile)
		}
	}
	if c.TLSCertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
		if err != nil {
			return nil, fmt.Errorf(envPrefix+"REDIS_TLS_CERT_FILE: cannot be loaded with its key: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}
