package httpfiber

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// envPrefix is what the names in the struct tags are relative to. Violations name settings whole.
const envPrefix = "VELOCITY_"

// Config is the data plane's. The tags are envconfig's.
type Config struct {
	Addr           string   `envconfig:"HTTP_ADDR" default:":3000" desc:"address of the data plane"`
	TrustedProxies []string `envconfig:"TRUSTED_PROXIES" desc:"peers whose X-Forwarded-For is believed: CIDRs, addresses, loopback, private"`
	APIToken       Secret   `envconfig:"API_TOKEN" desc:"bearer token of the decision API; without it only loopback and trusted proxies may ask"`
	TLSCertFile    string   `envconfig:"TLS_CERT_FILE" desc:"certificate chain of the data plane, PEM; empty: no TLS"`
	TLSKeyFile     string   `envconfig:"TLS_KEY_FILE" desc:"its private key, PEM"`
	// EncodedSlashes is for upstreams whose names hold slashes. Empty is refuse.
	EncodedSlashes string `envconfig:"ENCODED_SLASHES" default:"refuse" desc:"a path with %2f: refuse it, or allow it as an ordinary character"`
	Upstream       UpstreamConfig

	// ReadTimeout bounds a whole request, from its first byte to its last, and the wait for a new connection's
	// first byte.
	ReadTimeout  time.Duration `envconfig:"HTTP_READ_TIMEOUT" default:"5s" desc:"time for a client to send a whole request"`
	WriteTimeout time.Duration `envconfig:"HTTP_WRITE_TIMEOUT" default:"5s" desc:"time for a client to take an answer"`
	// IdleTimeout is longer than the 60 s after which common load balancers drop an idle connection: whoever
	// keeps it must be the one to close it, or a request is lost.
	IdleTimeout time.Duration `envconfig:"HTTP_IDLE_TIMEOUT" default:"75s" desc:"how long an idle connection is kept"`
	// MaxConns is lowered to what the limit on open files leaves.
	MaxConns int `envconfig:"HTTP_MAX_CONNS" default:"16384" desc:"most connections at once; further ones wait"`
	// DrainPeriod gives load balancers and clients time to learn that the process is leaving.
	DrainPeriod time.Duration `envconfig:"HTTP_DRAIN_PERIOD" default:"1s" desc:"how long a stopping server still accepts, closing each connection after its answer"`
}

// AdminConfig is the admin plane's. The tags are envconfig's.
type AdminConfig struct {
	Addr  string `envconfig:"ADMIN_ADDR" default:"127.0.0.1:3001" desc:"address of the admin plane"`
	Token Secret `envconfig:"ADMIN_TOKEN" desc:"bearer token of the admin plane; needed beyond loopback"`
	// Hosts are names by which a browser may reach the admin plane, beside localhost. Any other name is refused,
	// since a web page can make its own name resolve to a loopback address (DNS rebinding).
	Hosts []string `envconfig:"ADMIN_HOSTS" desc:"host names of the admin plane beside localhost"`
}

// Validate reports every violation at once, each with the setting's whole name and the value found.
func (c Config) Validate() error {
	var v violations
	v.addr("HTTP_ADDR", c.Addr)
	if _, err := ParseProxies(c.TrustedProxies); err != nil {
		v.errs = append(v.errs, err)
	}
	v.secret("API_TOKEN", c.APIToken)
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		v.add("TLS_CERT_FILE", strconv.Quote(c.TLSCertFile), "must be set together with "+envPrefix+"TLS_KEY_FILE")
	} else if _, err := c.tls(); err != nil {
		v.add("TLS_CERT_FILE", strconv.Quote(c.TLSCertFile), "cannot be loaded with its key: "+err.Error())
	}
	if c.EncodedSlashes != "" && c.EncodedSlashes != slashesRefuse && c.EncodedSlashes != slashesAllow {
		v.add("ENCODED_SLASHES", strconv.Quote(c.EncodedSlashes), "must be refuse or allow")
	}
	c.Upstream.validate(&v)
	v.duration("HTTP_READ_TIMEOUT", c.ReadTimeout, time.Millisecond)
	v.duration("HTTP_WRITE_TIMEOUT", c.WriteTimeout, time.Millisecond)
	v.duration("HTTP_IDLE_TIMEOUT", c.IdleTimeout, time.Millisecond)
	v.duration("HTTP_DRAIN_PERIOD", c.DrainPeriod, 0)
	if c.MaxConns < 1 {
		v.add("HTTP_MAX_CONNS", strconv.Itoa(c.MaxConns), "must be at least 1")
	}
	return v.err()
}

// What EncodedSlashes can be.
const (
	slashesRefuse = "refuse"
	slashesAllow  = "allow"
)

func (c Config) paths() PathRules { return PathRules{EncodedSlashes: c.EncodedSlashes == slashesAllow} }

// tls returns nil when TLS is not configured.
func (c Config) tls() (*tls.Config, error) {
	if c.TLSCertFile == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}, nil
}

// Validate reports every violation at once, each with the setting's whole name and the value found.
func (c AdminConfig) Validate() error {
	var v violations
	v.addr("ADMIN_ADDR", c.Addr)
	v.secret("ADMIN_TOKEN", c.Token)
	if c.Token == "" && !loopbackOnly(c.Addr) {
		v.add("ADMIN_ADDR", strconv.Quote(c.Addr),
			"is reachable from other machines, which needs "+envPrefix+"ADMIN_TOKEN")
	}
	for _, h := range c.Hosts {
		if h = strings.TrimSpace(h); h == "" || strings.ContainsAny(h, "/: \t") {
			v.add("ADMIN_HOSTS", strconv.Quote(h), "must be a host name, without scheme and port")
		}
	}
	return v.err()
}

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

// violations collects what is wrong with a configuration.
type violations struct{ errs []error }

func (v *violations) add(setting, value, reason string) {
	v.errs = append(v.errs, violation(setting, value, reason))
}

func violation(setting, value, reason string) error {
	return fmt.Errorf("%s%s: %s: %s", envPrefix, setting, value, reason)
}

func (v *violations) addr(setting, value string) {
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		v.add(setting, strconv.Quote(value), "must be host:port or :port")
	}
}

func (v *violations) secret(setting string, s Secret) {
	if reason := s.check(); reason != "" {
		v.add(setting, s.String(), reason)
	}
}

func (v *violations) duration(setting string, d, least time.Duration) {
	if d < least {
		v.add(setting, d.String(), "must be at least "+least.String())
	}
}

func (v *violations) err() error { return errors.Join(v.errs...) }
