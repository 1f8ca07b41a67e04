package httpfiber

import (
	"strings"

	"github.com/gofiber/fiber/v2"
)

// routes are the paths that are the server's own, whatever the method.
type routes map[string]bool

// routesOf lists an app's routes that have no parameters.
func routesOf(app *fiber.App) routes {
	own := make(routes)
	for _, route := range app.GetRoutes(true) {
		if !strings.ContainsAny(route.Path, ":*+") {
			own[route.Path] = true
		}
	}
	return own
}

func (r routes) have(path string) bool { return r[path] }
