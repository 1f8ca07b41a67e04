package httpproxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// serveAPI has the decision API answer. Its handler reads the whole body at once, so callers without the token, and large or
// slow bodies, do not get that far. The handler records its own span.
func (x *exchange) serveAPI(most int) {
	if _, err := x.proxy.tokens.Check(lines(x.in.Header["Authorization"])); err != nil {
		x.refuse(err)
		return
	}
	body, err := x.readBody(most)
	if err != nil {
		x.refuse(err)
		return
	}
	in := x.in.Clone(x.in.Context())
	in.Body, in.ContentLength, in.TransferEncoding, in.Trailer = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil, nil
	in.RequestURI = x.path
	if x.query != "" {
		in.RequestURI += "?" + x.query
	}
	in.Header["X-Request-Id"] = []string{x.id}
	x.proxy.api.Handler.ServeHTTP(x, in)
}

// readBody reads a body of most bytes at the most, in the usual time.
func (x *exchange) readBody(most int) ([]byte, error) {
	if x.body == nil {
		return nil, nil
	}
	if x.in.ContentLength > int64(most) {
		return nil, problem.ErrTooLarge
	}
	whole := time.Now().Add(x.proxy.read)
	x.body.patient = true // the whole body has one deadline
	if x.in.ProtoMajor == 1 {
		_ = x.control.SetWriteDeadline(whole) // of a 100 Continue
	}
	_ = x.control.SetReadDeadline(whole)
	body, err := io.ReadAll(io.LimitReader(x.body, int64(most)+1))
	if cause := x.body.failure(); cause != nil {
		return nil, cause
	}
	if err != nil && !errors.Is(err, http.ErrBodyReadAfterClose) {
		return nil, problem.Input(problem.ErrMalformed, "body", "is cut off or malformed")
	}
	if len(body) > most {
		return nil, problem.ErrTooLarge
	}
	return body, nil
}

// client is the address of the client that sent the request.
func (x *exchange) client() netip.Addr {
	return x.proxy.clients.Client(x.peer, x.trusted, lines(x.in.Header["X-Forwarded-For"]))
}

// lines is a header as packages see it that fasthttp uses, too.
func lines(values []string) [][]byte {
	if len(values) == 0 {
		return nil
	}
	all := make([][]byte, len(values))
	for i, value := range values {
		all[i] = []byte(value)
	}
	return all
}
