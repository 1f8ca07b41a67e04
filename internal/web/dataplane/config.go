// Package dataplane holds the settings of the data plane, which one of two servers serves: httpproxy in front of an upstream,
// else httpfiber.
package dataplane

import (
	"crypto/tls"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/web/bearer"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
	"github.com/velocity-limiter/velocity/internal/web/cors"
	"github.com/velocity-limiter/velocity/internal/web/setting"
)

// Config configures the data plane. The tags are envconfig's.
type Config struct {
	Addr           string        `envconfig:"HTTP_ADDR" default:":3000" desc:"address of the data plane"`
	TrustedProxies []string      `envconfig:"TRUSTED_PROXIES" desc:"peers whose X-Forwarded-For is believed, and the headers of conditions: CIDRs, addresses, loopback, private"`
	APIToken       secret.Secret `envconfig:"API_TOKEN" tokens:"" desc:"bearer token of the decision API; without it only loopback and trusted proxies may ask"`
	// LiveTokens, if not nil, are what APIToken lists now: it may change while the server runs.
	LiveTokens  *bearer.Tokens `envconfig:"-"`
	TLSCertFile string         `envconfig:"TLS_CERT_FILE" desc:"certificate chain of the data plane, PEM; empty: no TLS"`
	TLSKeyFile  string         `envconfig:"TLS_KEY_FILE" desc:"its private key, PEM"`
	// EncodedSlashes is for upstreams that have resources with a slash in the name. Empty means refuse.
	EncodedSlashes string   `envconfig:"ENCODED_SLASHES" default:"refuse" desc:"a path with %2f: refuse it, or allow it as an ordinary character"`
	CORSOrigins    []string `envconfig:"CORS_ORIGINS" desc:"origins whose pages may read our own answers, and the limit headers of the upstream's: https://app.example.com, or *"`
	// LimitHeaders are the families of headers; see [decision.ParseHeaderFamilies]. None means all.
	LimitHeaders []string `envconfig:"LIMIT_HEADERS" default:"x-ratelimit,ratelimit" desc:"families of limit headers that answers have: x-ratelimit, ratelimit; Retry-After, X-RateLimit-Store and X-RateLimit-Shadow are always there"`

	// ReadTimeout bounds a whole request, from its first byte to its last, and the wait for a new connection's
	// first byte. In front of an upstream it bounds the header, and each piece of the body.
	ReadTimeout  time.Duration `envconfig:"HTTP_READ_TIMEOUT" default:"5s" desc:"time for a client to send a whole request"`
	WriteTimeout time.Duration `envconfig:"HTTP_WRITE_TIMEOUT" default:"5s" desc:"time for a client to take an answer"`
	// IdleTimeout is longer than the 60 s after which common load balancers close an idle connection. If the server
	// closed first, a request that the load balancer is sending would be lost.
	IdleTimeout time.Duration `envconfig:"HTTP_IDLE_TIMEOUT" default:"75s" desc:"how long an idle connection is kept"`
	// MaxConns is lowered to what the limit on open files leaves.
	MaxConns int `envconfig:"HTTP_MAX_CONNS" default:"16384" desc:"most connections at once; further ones wait"`
	// DrainPeriod gives load balancers and clients time to see that the process is stopping.
	DrainPeriod time.Duration `envconfig:"HTTP_DRAIN_PERIOD" default:"1s" desc:"how long a stopping server still accepts, closing each connection after its answer"`
}

// Validate reports every violation at once, each with the setting's short name and the value found.
func (c Config) Validate() error {
	var v setting.Violations
	v.Addr("HTTP_ADDR", c.Addr)
	if _, err := clientid.ParseProxies(c.TrustedProxies); err != nil {
		v.AddError(err)
	}
	if err := bearer.Validate(c.APIToken); err != nil {
		v.Add("API_TOKEN", c.APIToken.String(), err.Error())
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		v.Add("TLS_CERT_FILE", strconv.Quote(c.TLSCertFile), "must be set together with {TLS_KEY_FILE}")
	} else if _, err := c.TLS(); err != nil {
		v.Add("TLS_CERT_FILE", strconv.Quote(c.TLSCertFile), "cannot be loaded with its key: "+err.Error())
	}
	if c.EncodedSlashes != "" && c.EncodedSlashes != slashesRefuse && c.EncodedSlashes != slashesAllow {
		v.Add("ENCODED_SLASHES", strconv.Quote(c.EncodedSlashes), "must be refuse or allow")
	}
	if _, err := c.CORS(); err != nil {
		v.AddError(err)
	}
	if _, err := decision.ParseHeaderFamilies(c.LimitHeaders); err != nil {
		v.Add("LIMIT_HEADERS", strconv.Quote(strings.Join(c.LimitHeaders, ",")), "must be x-ratelimit, ratelimit, or both with a comma between: "+err.Error())
	}
	v.Duration("HTTP_READ_TIMEOUT", c.ReadTimeout, time.Millisecond)
	v.Duration("HTTP_WRITE_TIMEOUT", c.WriteTimeout, time.Millisecond)
	v.Duration("HTTP_IDLE_TIMEOUT", c.IdleTimeout, time.Millisecond)
	v.Duration("HTTP_DRAIN_PERIOD", c.DrainPeriod, 0)
	v.AtLeastOne("HTTP_MAX_CONNS", c.MaxConns)
	return v.Err()
}

// Tokens returns the tokens of the decision API.
func (c Config) Tokens() *bearer.Tokens {
	if c.LiveTokens != nil {
		return c.LiveTokens
	}
	return bearer.New(c.APIToken)
}

// Headers returns the families of limit headers that answers have. The configuration must be valid.
func (c Config) Headers() decision.HeaderFamilies {
	families, _ := decision.ParseHeaderFamilies(c.LimitHeaders)
	return families
}

// CORS returns the rules by which pages of other origins read answers.
func (c Config) CORS() (cors.Rules, error) {
	return cors.ParseOrigins(c.CORSOrigins, c.Headers().Names())
}

// What EncodedSlashes can be.
const (
	slashesRefuse = "refuse"
	slashesAllow  = "allow"
)

// Paths returns the rules for the normal form of paths.
func (c Config) Paths() cleanpath.Rules {
	return cleanpath.Rules{EncodedSlashes: c.EncodedSlashes == slashesAllow}
}

// TLS returns the configuration without protocols for ALPN, or nil when TLS is not configured.
func (c Config) TLS() (*tls.Config, error) {
	if c.TLSCertFile == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}
