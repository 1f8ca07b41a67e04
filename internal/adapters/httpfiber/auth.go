package httpfiber

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// bearer checks a token of RFC 6750. The zero value is not set.
type bearer struct {
	set bool
	sum [sha256.Size]byte
}

func newBearer(token Secret) bearer {
	return bearer{set: token != "", sum: sha256.Sum256([]byte(token))}
}

// check compares hashes, in constant time, so that time tells neither the token's length nor its first characters.
func (b *bearer) check(h *fasthttp.RequestHeader) error {
	lines := h.PeekAll(fasthttp.HeaderAuthorization)
	if len(lines) != 1 {
		return &inputError{errUnauthorized, fasthttp.HeaderAuthorization, "must be sent once, as Bearer and the token"}
	}
	scheme, token, _ := bytes.Cut(lines[0], []byte(" "))
	if !bytes.EqualFold(scheme, []byte("Bearer")) {
		return &inputError{errUnauthorized, fasthttp.HeaderAuthorization, "must be Bearer and the token"}
	}
	sum := sha256.Sum256(bytes.TrimLeft(token, " "))
	if subtle.ConstantTimeCompare(sum[:], b.sum[:]) != 1 {
		return &inputError{errUnauthorized, fasthttp.HeaderAuthorization, "this is not the token"}
	}
	return nil
}

// guardAPI lets the holder of the token ask the decision API. While no token is set the API is protected: it
// answers this machine and the trusted proxies on their own behalf alone, so that nobody in the network can spend
// or refund for others by an oversight.
func guardAPI(token bearer, proxies Proxies) fiber.Handler {
	return func(c *fiber.Ctx) error {
		ctx := c.Context()
		if token.set {
			if err := token.check(&ctx.Request.Header); err != nil {
				return err
			}
			return c.Next()
		}
		peer := peerAddr(ctx)
		forwarded := len(ctx.Request.Header.PeekAll(fasthttp.HeaderXForwardedFor)) > 0
		if forwarded || !peer.IsLoopback() && !proxies.Trusts(peer) {
			return &inputError{kind: errForbidden, reason: "the decision API answers other machines only when " +
				envPrefix + "API_TOKEN is set"}
		}
		return c.Next()
	}
}
