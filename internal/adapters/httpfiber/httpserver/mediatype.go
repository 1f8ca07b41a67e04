package httpserver

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/web/problem"
)

const mediaType = "application/json"

// WantJSON refuses other media types, which a page of another origin could send without the browser's preflight, and
// compressed bodies, whose size the limits on bodies would not bound.
func WantJSON(h *fasthttp.RequestHeader) error {
	sent, _, _ := bytes.Cut(h.ContentType(), []byte(";"))
	if !bytes.EqualFold(bytes.TrimSpace(sent), []byte(mediaType)) {
		return problem.Input(problem.ErrMediaType, fasthttp.HeaderContentType, "must be "+mediaType)
	}
	if len(h.PeekAll(fasthttp.HeaderContentEncoding)) > 0 {
		return problem.Input(problem.ErrMediaType, fasthttp.HeaderContentEncoding, "must not be used")
	}
	return nil
}
