package forwardauth

import (
	"strings"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// original is the request that a proxy asks about, as the headers of the proxy describe it. A proxy may also pass on headers
// of its client that describe another request. So if two headers contradict each other, the request is refused.
type original struct {
	header    *fasthttp.RequestHeader
	normalize func(path string) (string, error)

	method, host, path, query string
	err                       error
}

// read reads the headers of all proxies: Traefik and Caddy send X-Forwarded-*, nginx and ingress-nginx X-Original-*.
func (o *original) read() {
	for _, name := range []string{"X-Forwarded-Method", "X-Original-Method"} {
		if value := o.once(name); value != "" {
			o.agree(name, &o.method, value)
		}
	}
	for _, name := range []string{"X-Forwarded-Uri", "X-Original-Uri"} {
		if value := o.once(name); value != "" {
			o.addURI(name, value, "")
		}
	}
	if value := o.once("X-Original-Url"); value != "" {
		o.addURL("X-Original-Url", value)
	}
	if value := o.once(fasthttp.HeaderXForwardedHost); value != "" {
		o.agree(fasthttp.HeaderXForwardedHost, &o.host, strings.ToLower(value))
	}
}

func (o *original) fail(name, reason string) {
	if o.err == nil {
		o.err = problem.Input(problem.ErrMalformed, name, reason)
	}
}

// once returns the value of a header; "" if there is none. It fails if there are several.
func (o *original) once(name string) string {
	values := o.header.PeekAll(name)
	switch len(values) {
	case 0:
		return ""
	case 1:
		return utils.UnsafeString(values[0])
	default:
		o.fail(name, "is there more than once")
		return ""
	}
}

// agree sets a part of the request. It fails if another header has given another value.
func (o *original) agree(name string, part *string, value string) {
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c == ',' || c >= 0x7f {
			o.fail(name, "holds a character that cannot be there")
			return
		}
	}
	if *part != "" && *part != value {
		o.fail(name, "contradicts what else is said of the request: the proxy must set or clear each such header")
		return
	}
	*part = value
}

// addURI sets path and query. uri is a path, which may include the query.
func (o *original) addURI(name, uri, query string) {
	uri, _, _ = strings.Cut(uri, "#")
	if raw, after, found := strings.Cut(uri, "?"); found {
		uri, query = raw, after
	}
	if uri == "" || uri[0] != '/' {
		o.fail(name, "does not start with a slash")
		return
	}
	path, err := o.normalize(uri)
	switch {
	case err != nil:
		if o.err == nil {
			o.err = err
		}
	case o.path != "" && (o.path != path || o.query != query):
		o.fail(name, "contradicts what else is said of the request: the proxy must set or clear each such header")
	default:
		o.path, o.query = path, query
	}
}

// addURL sets host, path and query. url may be without scheme and host.
func (o *original) addURL(name, url string) {
	if _, rest, found := strings.Cut(url, "://"); found && url[0] != '/' {
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		o.agree(name, &o.host, strings.ToLower(rest[:end]))
		if url = rest[end:]; url == "" || url[0] != '/' {
			url = "/" + url
		}
	}
	o.addURI(name, url, "")
}
