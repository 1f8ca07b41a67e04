package admin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/web/bearer"
)

func TestGuardToken_handlersKnowTheNameOfTheToken(t *testing.T) {
	for _, c := range []struct {
		tokens     secret.Secret
		sent, want string
	}{
		{"alice:one\nbob:two", "Bearer two", "bob"},
		{"alice:one\nbob:two", "Bearer one", "alice"},
		{"one", "Bearer one", "token"},
		{"", "Bearer one", "loopback"},
	} {
		app := fiber.New()
		app.Get("/", guardToken(bearer.New(c.tokens)), func(c *fiber.Ctx) error { return c.SendString(actor(c)) })
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		req.Header.Set("Authorization", c.sent)
		res, err := app.Test(req)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.Equal(t, http.StatusOK, res.StatusCode)
		assert.Equal(t, c.want, string(body))
	}
}
