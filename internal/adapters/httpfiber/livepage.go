package httpfiber

import (
	"context"
	"embed"
	"io/fs"
	"path"

	"github.com/gofiber/fiber/v2"
)

// page is the live page. It needs nothing from anywhere else. uPlot.iife.min.js and uPlot.min.css are uPlot's, version
// 1.6.32, unchanged, under the licence beside them.
//
//go:embed page
var page embed.FS

// pagePolicy lets the page load what is beside it, and nothing else: a client's key that got into the page as markup
// could neither run nor tell anybody.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

var pageTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

// WithLivePage serves the live page at /, what it shows at /v1/status, and that again each second at /v1/live. The page
// itself is for everybody who reaches the admin plane: it knows nothing, and asks for the token if one is set.
func WithLivePage(sources LiveSources) AdminOption {
	return func(a *Admin, token fiber.Handler) {
		feed := &liveFeed{
			sources: sources, state: a.readiness.of, log: a.http.log, viewers: make(map[chan []byte]struct{}),
		}
		a.stopping = append(a.stopping, feed.close)
		a.http.app.Get("/v1/live", token, feed.stream)
		a.http.app.Get("/v1/status", token, feed.once)
		a.http.app.Get("/", asset("index.html"))
		entries, _ := fs.ReadDir(page, "page") // it is embedded
		for _, e := range entries {
			a.http.app.Get("/page/"+e.Name(), asset(e.Name()))
		}
	}
}

func asset(name string) fiber.Handler {
	body, _ := page.ReadFile("page/" + name) // it is embedded
	contentType := pageTypes[path.Ext(name)]
	if contentType == "" {
		contentType = fiber.MIMETextPlainCharsetUTF8
	}
	return func(c *fiber.Ctx) error {
		h := &c.Context().Response.Header
		h.Set(fiber.HeaderContentType, contentType)
		h.Set(fiber.HeaderContentSecurityPolicy, pagePolicy)
		h.Set(fiber.HeaderXContentTypeOptions, "nosniff")
		h.Set(fiber.HeaderReferrerPolicy, "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set(fiber.HeaderCacheControl, "no-cache")
		return c.Send(body)
	}
}

// once answers with what the live page shows now.
func (f *liveFeed) once(c *fiber.Ctx) error {
	ctx, cancel := context.WithTimeout(c.UserContext(), healthTimeout)
	defer cancel()
	return answerJSON(c, f.snapshot(f.sources.Health.CheckHealth(ctx)))
}
