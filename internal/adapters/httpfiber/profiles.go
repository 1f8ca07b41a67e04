package httpfiber

import (
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/pprof"
)

// WithProfiles serves the process's own profiles below /debug/pprof/, as go tool pprof asks for them. They show
// memory, and so keys: without a token the admin plane is reachable on loopback alone, with one they need it, too.
func WithProfiles() AdminOption {
	return func(a *Admin, token fiber.Handler) {
		profiles := pprof.New()
		for _, path := range []string{"/debug/pprof", "/debug/pprof/*"} {
			a.http.app.Get(path, token, profiles)
		}
		a.http.app.Post("/debug/pprof/symbol", token, profiles) // go tool pprof sends its addresses so
	}
}
