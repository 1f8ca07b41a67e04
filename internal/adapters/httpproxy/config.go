package httpproxy

import (
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/web/setting"
	"github.com/velocity-limiter/velocity/internal/web/target"
)

// Config says which server the data plane is in front of. The tags are envconfig's.
type Config struct {
	URL  string `envconfig:"UPSTREAM_URL" desc:"http://, https:// or h2c:// (HTTP/2 without TLS, for gRPC) and a host: the data plane is a reverse proxy in front of that server"`
	Host string `envconfig:"UPSTREAM_HOST" desc:"the Host that the upstream sees; empty: the client's own"`
	// Timeout is the time to the upstream's header. A body has as much as it needs.
	Timeout     time.Duration `envconfig:"UPSTREAM_TIMEOUT" default:"30s" desc:"time for the upstream to begin its answer, from the end of the request"`
	MaxConns    int           `envconfig:"UPSTREAM_MAX_CONNS" default:"1024" desc:"most connections to the upstream, and requests to it, at once; further requests wait"`
	IdleTimeout time.Duration `envconfig:"UPSTREAM_IDLE_TIMEOUT" default:"60s" desc:"how long an unused connection to the upstream is kept"`
	// BodyBytes bounds the bodies that are held before they are forwarded, all together. A body beyond it is as one that is too large to
	// have an estimate. 0 means DefaultBodyBytes.
	BodyBytes int `envconfig:"-"`
}

// DefaultBodyBytes is what Config.BodyBytes is if it is not set.
const DefaultBodyBytes = 256 << 20

// Enabled reports whether there is an upstream.
func (c Config) Enabled() bool { return c.URL != "" }

// Validate reports every violation at once, each with the setting's whole name and the value found; none if there is no
// upstream.
func (c Config) Validate() error {
	var v setting.Violations
	if !c.Enabled() {
		return nil
	}
	if _, err := c.parse(); err != nil {
		v.Add("UPSTREAM_URL", c.shown(), err.Error())
	}
	if c.Host != "" && !target.ValidHost(c.Host) {
		v.Add("UPSTREAM_HOST", strconv.Quote(c.Host), "must be a host name or an address, perhaps with a port")
	}
	v.Duration("UPSTREAM_TIMEOUT", c.Timeout, time.Millisecond)
	v.Duration("UPSTREAM_IDLE_TIMEOUT", c.IdleTimeout, time.Millisecond)
	v.AtLeastOne("UPSTREAM_MAX_CONNS", c.MaxConns)
	return v.Err()
}

// shown is the URL without what may be a password.
func (c Config) shown() string {
	if strings.Contains(c.URL, "@") {
		return "(set)"
	}
	return strconv.Quote(c.URL)
}

// The schemes of an upstream.
const (
	schemeHTTP  = "http"
	schemeHTTPS = "https"
	schemeH2C   = "h2c"
)

// origin is where the upstream is.
type origin struct {
	scheme string // of the table above
	host   string // with the port, if one was given
}

// parse reads the URL. Its errors do not repeat it.
func (c Config) parse() (origin, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Scheme != schemeHTTP && u.Scheme != schemeHTTPS && u.Scheme != schemeH2C || u.Hostname() == "":
		return origin{}, errors.New("must be http://, https:// or h2c:// and a host, perhaps with a port")
	case u.User != nil:
		return origin{}, errors.New("must not hold a user: set the header where it is needed")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return origin{}, errors.New("must end after the host: paths are forwarded as they are")
	}
	if port, err := net.LookupPort("tcp", u.Port()); u.Port() != "" && (err != nil || port == 0) {
		return origin{}, errors.New("must have a port from 1 to 65535")
	}
	return origin{u.Scheme, u.Host}, nil
}
