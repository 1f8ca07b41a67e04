package httpfiber

import (
	_ "embed"

	"github.com/gofiber/fiber/v2"
)

// openAPIPath is where the data plane describes itself.
const openAPIPath = "/openapi.yaml"

// openAPI is the data plane's contract. The end-to-end tests hold every answer against it.
//
//go:embed openapi.yaml
var openAPI []byte

// describe answers with the contract. It needs no token, and is no secret.
func describe(c *fiber.Ctx) error {
	ctx := c.Context()
	ctx.SetContentType("application/yaml") // RFC 9512
	ctx.SetBody(openAPI)
	return nil
}
