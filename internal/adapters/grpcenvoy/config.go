package grpcenvoy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// envPrefix is what the names in the struct tags are relative to. Violations name settings whole.
const envPrefix = "VELOCITY_"

// Config is the gRPC door's. The tags are envconfig's.
type Config struct {
	Addr         string `envconfig:"GRPC_ADDR" desc:"address of Envoy's rate limit service, gRPC; empty: off"`
	TLSCertFile  string `envconfig:"GRPC_TLS_CERT_FILE" desc:"certificate chain of the gRPC door, PEM; empty: no TLS"`
	TLSKeyFile   string `envconfig:"GRPC_TLS_KEY_FILE" desc:"its private key, PEM"`
	ClientCAFile string `envconfig:"GRPC_CLIENT_CA_FILE" desc:"authorities of the clients of the gRPC door, PEM; set: a client needs a certificate of theirs"`
	// RulesPath is for teams that come from envoyproxy/ratelimit and keep its files.
	RulesPath string `envconfig:"ENVOY_CONFIG" desc:"file or folder of envoyproxy/ratelimit configuration, for the gRPC door"`

	// DrainPeriod is the data plane's: both stop together.
	DrainPeriod time.Duration `envconfig:"-"`
	// OnStoreFailure is what rules of RulesPath, and limits that a request brings, do while the store fails.
	OnStoreFailure domain.FailureMode `envconfig:"-"`
}

// Enabled reports whether there is a gRPC door.
func (c Config) Enabled() bool { return c.Addr != "" }

// Validate reports every violation at once, each with the setting's whole name and the value found. What RulesPath holds
// is looked at by New.
func (c Config) Validate() error {
	var errs []error
	bad := func(setting, value, reason string) {
		errs = append(errs, fmt.Errorf("%s%s: %s: %s", envPrefix, setting, strconv.Quote(value), reason))
	}
	if c.Enabled() {
		_, port, err := net.SplitHostPort(c.Addr)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil || port == "" {
			bad("GRPC_ADDR", c.Addr, "must be host:port or :port")
		}
	} else if c.RulesPath != "" {
		bad("ENVOY_CONFIG", c.RulesPath, "is for the gRPC door, which needs "+envPrefix+"GRPC_ADDR")
	}
	switch _, err := c.tls(); {
	case (c.TLSCertFile == "") != (c.TLSKeyFile == ""):
		bad("GRPC_TLS_CERT_FILE", c.TLSCertFile, "must be set together with "+envPrefix+"GRPC_TLS_KEY_FILE")
	case c.ClientCAFile != "" && c.TLSCertFile == "":
		bad("GRPC_CLIENT_CA_FILE", c.ClientCAFile, "needs "+envPrefix+"GRPC_TLS_CERT_FILE")
	case err != nil:
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tls returns nil when TLS is not configured.
func (c Config) tls() (*tls.Config, error) {
	if c.TLSCertFile == "" || c.TLSKeyFile == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
	if err != nil {
		return nil, fmt.Errorf("%sGRPC_TLS_CERT_FILE: %q: cannot be loaded with its key: %w", envPrefix, c.TLSCertFile, err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if c.ClientCAFile == "" {
		return cfg, nil
	}
	text, err := os.ReadFile(c.ClientCAFile)
	if err == nil {
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(text) {
			err = errors.New("there is no certificate in it")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%sGRPC_CLIENT_CA_FILE: %q: cannot be loaded: %w", envPrefix, c.ClientCAFile, err)
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	return cfg, nil
}

// Exposed reports whether other machines can reach the door without TLS.
func (c Config) Exposed() bool { return c.Enabled() && c.TLSCertFile == "" && !loopbackOnly(c.Addr) }

// loopbackOnly reports whether a listener on addr can be reached from this machine alone.
func loopbackOnly(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
