package httpfiber

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
)

const maxRequestID = 64

var headerRequestID = []byte("X-Request-Id")

// requestID returns the id under which a request is logged and answered: the client's own if it is harmless, else a
// new one. It stands on the answer from the first call on; the string is valid as long as the request.
func requestID(ctx *fasthttp.RequestCtx) string {
	if id := ctx.Response.Header.PeekCanonical(headerRequestID); len(id) > 0 {
		return utils.UnsafeString(id)
	}
	if id := ctx.Request.Header.PeekCanonical(headerRequestID); validRequestID(id) {
		ctx.Response.Header.SetCanonical(headerRequestID, id)
	} else {
		setNewRequestID(ctx)
	}
	return utils.UnsafeString(ctx.Response.Header.PeekCanonical(headerRequestID))
}

// setNewRequestID makes an id of 128 random bits. They need not be secret, only different.
func setNewRequestID(ctx *fasthttp.RequestCtx) {
	var raw [16]byte
	var text [32]byte
	binary.NativeEndian.PutUint64(raw[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(raw[8:], rand.Uint64())
	hex.Encode(text[:], raw[:])
	ctx.Response.Header.SetCanonical(headerRequestID, text[:])
}

// validRequestID reports whether id matches [A-Za-z0-9._-]{1,64}.
func validRequestID(id []byte) bool {
	if len(id) == 0 || len(id) > maxRequestID {
		return false
	}
	for _, c := range id {
		if !unreserved(c) || c == '~' {
			return false
		}
	}
	return true
}
