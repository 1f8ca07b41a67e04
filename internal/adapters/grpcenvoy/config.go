package grpcenvoy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/violation"
	"github.com/velocity-limiter/velocity/internal/web/setting"
)

// Config configures the gRPC listener. The tags are for envconfig.
type Config struct {
	Addr         string `envconfig:"GRPC_ADDR" desc:"address of Envoy's rate limit service, gRPC; empty: off"`
	TLSCertFile  string `envconfig:"GRPC_TLS_CERT_FILE" desc:"certificate chain of the gRPC listener, PEM; empty: no TLS"`
	TLSKeyFile   string `envconfig:"GRPC_TLS_KEY_FILE" desc:"its private key, PEM"`
	ClientCAFile string `envconfig:"GRPC_CLIENT_CA_FILE" desc:"authorities for certificates of gRPC clients, PEM; if set, a client needs a certificate of one of them"`
	// RulesPath is for teams that come from envoyproxy/ratelimit and keep its configuration files.
	RulesPath string `envconfig:"ENVOY_CONFIG" desc:"file or folder of envoyproxy/ratelimit configuration, for the gRPC listener; reloaded when it changes and on SIGHUP"`
	// Limits applies to limits in a request, too. Empty means bucket.
	Limits string `envconfig:"ENVOY_LIMITS" default:"bucket" desc:"what requests_per_unit in ENVOY_CONFIG means: bucket, which refills steadily, or quota, so many in each window of the clock, as in envoyproxy/ratelimit"`

	// DrainPeriod is the same as for the HTTP listener, since both stop together.
	DrainPeriod time.Duration `envconfig:"-"`
	// OnStoreFailure applies to the rules of RulesPath and to limits in a request.
	OnStoreFailure policy.FailureMode `envconfig:"-"`
	// Headers are the families of limit headers that Envoy adds to answers, the same as over HTTP.
	Headers decision.HeaderFamilies `envconfig:"-"`
}

// Enabled reports whether there is a gRPC listener.
func (c Config) Enabled() bool { return c.Addr != "" }

// The values of Limits.
const bucket, quota = "bucket", "quota"

// rules returns what applies to all rules.
func (c Config) rules() envoyconfig.Options {
	return envoyconfig.Options{Quotas: c.Limits == quota, OnStoreFailure: c.OnStoreFailure}
}

// Validate reports every violation at once, each with the setting's short name and the value found. New checks the files of
// RulesPath.
func (c Config) Validate() error {
	var v setting.Violations
	bad := func(setting, value, reason string) { v.Add(setting, strconv.Quote(value), reason) }
	if c.Enabled() {
		v.Addr("GRPC_ADDR", c.Addr)
	} else if c.RulesPath != "" {
		bad("ENVOY_CONFIG", c.RulesPath, "is for the gRPC listener, which needs {GRPC_ADDR}")
	}
	switch c.Limits {
	case "", bucket:
	case quota:
		if !c.Enabled() {
			bad("ENVOY_LIMITS", c.Limits, "is for the gRPC listener, which needs {GRPC_ADDR}")
		}
	default:
		bad("ENVOY_LIMITS", c.Limits, "must be bucket or quota")
	}
	switch _, err := c.tls(); {
	case (c.TLSCertFile == "") != (c.TLSKeyFile == ""):
		bad("GRPC_TLS_CERT_FILE", c.TLSCertFile, "must be set together with {GRPC_TLS_KEY_FILE}")
	case c.ClientCAFile != "" && c.TLSCertFile == "":
		bad("GRPC_CLIENT_CA_FILE", c.ClientCAFile, "needs {GRPC_TLS_CERT_FILE}")
	case err != nil:
		v.AddError(err)
	}
	return v.Err()
}

// tls returns nil when TLS is not configured.
func (c Config) tls() (*tls.Config, error) {
	if c.TLSCertFile == "" || c.TLSKeyFile == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
	if err != nil {
		return nil, &violation.Error{
			Setting: "GRPC_TLS_CERT_FILE", Value: strconv.Quote(c.TLSCertFile), Reason: "cannot be loaded with its key", Cause: err,
		}
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if c.ClientCAFile == "" {
		return cfg, nil
	}
	text, err := os.ReadFile(c.ClientCAFile)
	if err == nil {
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(text) {
			err = errors.New("it has no certificate")
		}
	}
	if err != nil {
		return nil, &violation.Error{
			Setting: "GRPC_CLIENT_CA_FILE", Value: strconv.Quote(c.ClientCAFile), Reason: "cannot be loaded", Cause: err,
		}
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	return cfg, nil
}

// Exposed reports whether other machines can reach the listener without TLS.
func (c Config) Exposed() bool {
	return c.Enabled() && c.TLSCertFile == "" && !setting.LoopbackOnly(c.Addr)
}
