package httpfiber

import (
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/upstream"
)

// UpstreamConfig makes the data plane a reverse proxy. The tags are envconfig's.
type UpstreamConfig struct {
	URL  string `envconfig:"UPSTREAM_URL" desc:"http:// or https:// and a host: reverse-proxy mode, which protects every path of that server"`
	Host string `envconfig:"UPSTREAM_HOST" desc:"the Host that the upstream sees; empty: the client's own"`
	// Timeout is the time to the upstream's header. A body has as much as it needs.
	Timeout     time.Duration `envconfig:"UPSTREAM_TIMEOUT" default:"30s" desc:"time for the upstream to begin its answer, from the end of the request"`
	MaxConns    int           `envconfig:"UPSTREAM_MAX_CONNS" default:"1024" desc:"most connections to the upstream at once; further requests wait"`
	IdleTimeout time.Duration `envconfig:"UPSTREAM_IDLE_TIMEOUT" default:"60s" desc:"how long an unused connection to the upstream is kept"`
}

func (c UpstreamConfig) validate(v *violations) {
	if c.URL == "" {
		return
	}
	if _, err := c.parse(); err != nil {
		v.add("UPSTREAM_URL", c.shown(), err.Error())
	}
	if c.Host != "" && !validHost([]byte(c.Host)) {
		v.add("UPSTREAM_HOST", strconv.Quote(c.Host), "must be a host name or an address, perhaps with a port")
	}
	v.duration("UPSTREAM_TIMEOUT", c.Timeout, time.Millisecond)
	v.duration("UPSTREAM_IDLE_TIMEOUT", c.IdleTimeout, time.Millisecond)
	if c.MaxConns < 1 {
		v.add("UPSTREAM_MAX_CONNS", strconv.Itoa(c.MaxConns), "must be at least 1")
	}
}

// shown is the URL without what may be a password.
func (c UpstreamConfig) shown() string {
	if strings.Contains(c.URL, "@") {
		return "(set)"
	}
	return strconv.Quote(c.URL)
}

// parse reads the URL. Its errors do not repeat it.
func (c UpstreamConfig) parse() (upstream.Config, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return upstream.Config{}, errors.New("must be http:// or https:// and a host, perhaps with a port")
	case u.User != nil:
		return upstream.Config{}, errors.New("must not hold a user: set the header where it is needed")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return upstream.Config{}, errors.New("must end after the host: paths are forwarded as they are")
	}
	cfg := upstream.Config{Timeout: c.Timeout, MaxConns: c.MaxConns, IdleTimeout: c.IdleTimeout}
	port := u.Port()
	if u.Scheme == "https" {
		cfg.TLS = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	}
	switch {
	case port != "":
	case cfg.TLS != nil:
		port = "443"
	default:
		port = "80"
	}
	cfg.Addr = net.JoinHostPort(u.Hostname(), port)
	return cfg, nil
}
