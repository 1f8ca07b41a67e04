package redisstore

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"os"
	"strconv"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/conn"
	"github.com/velocity-limiter/velocity/internal/violation"
)

// connOptions returns the settings of the clients of servers without a URL. A file that cannot be read is an error of the
// configuration, found at the start; a server's certificate that does not fit is found when the server is asked.
func (c *Config) connOptions() (*conn.Options, error) {
	credentials := conn.Fixed(c.Username, string(c.Password))
	if c.Credentials != nil {
		credentials = c.Credentials
	}
	o := &conn.Options{
		Credentials: credentials, Database: c.Database,
		PoolSize: c.PoolSize, DialTimeout: c.DialTimeout, Timeout: c.TakeTimeout, Lifetime: c.connLifetime,
	}
	if c.TLS || c.TLSConfig != nil {
		var err error
		o.TLS, err = c.tlsConfig()
		return o, err
	}
	return o, nil
}

// connOptionsFor returns the settings of the client of one server.
func (c *Config) connOptionsFor(a address, general *conn.Options) (*conn.Options, error) {
	if a.url.scheme == "" {
		return general, nil
	}
	o := *general
	if a.url.password != "" {
		o.Credentials = conn.Fixed(a.url.username, string(a.url.password))
	}
	o.Database = cmp.Or(a.url.database, c.Database)
	if a.url.scheme == schemeTLS && o.TLS == nil {
		var err error
		o.TLS, err = c.tlsConfig()
		return &o, err
	}
	return &o, nil
}

func (c *Config) tlsConfig() (*tls.Config, error) {
	if c.TLSConfig != nil {
		return c.TLSConfig.Clone(), nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if c.TLSCAFile != "" {
		pem, err := os.ReadFile(c.TLSCAFile)
		if err != nil {
			return nil, &violation.Error{Setting: "REDIS_TLS_CA_FILE", Reason: "cannot be read", Cause: err}
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &violation.Error{Setting: "REDIS_TLS_CA_FILE", Value: strconv.Quote(c.TLSCAFile), Reason: "holds no certificate in PEM"}
		}
	}
	if c.TLSCertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
		if err != nil {
			return nil, &violation.Error{Setting: "REDIS_TLS_CERT_FILE", Reason: "cannot be loaded with its key", Cause: err}
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
