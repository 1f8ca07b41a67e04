package admin_test

import (
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/secret"
)

func TestReload(t *testing.T) {
	wrong := errors.Join(errors.New(`2:11: policies[0].name: "A": must be lower case`), errors.New("3:1: is not a known field"))
	for name, c := range map[string]struct {
		token, given string
		err          error
		status       int
		body         string
	}{
		"right":    {status: 200, body: `{"policies":3,"version":"0123456789ab"}`},
		"no token": {token: "sesame-of-at-least-16", status: 401, body: "Bearer"},
		"token":    {token: "sesame-of-at-least-16", given: "sesame-of-at-least-16", status: 200, body: `"policies":3`},
		"broken": {
			err: wrong, status: 422,
			body: `"errors":["2:11: policies[0].name: \"A\": must be lower case","3:1: is not a known field"]`,
		},
		"unreadable": {err: errors.New("no such file"), status: 422, body: `"errors":["no such file"]`},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			url := startAdminWith(t, admin.Config{Token: secret.Secret(c.token)},
				admin.WithReload(func() admin.Reloaded {
					return admin.Reloaded{Policies: 2 + calls, Version: "0123456789ab"}
				}, func() error {
					calls++
					return c.err
				}))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/reload", http.NoBody)
			require.NoError(t, err)
			if c.given != "" {
				req.Header.Set("Authorization", "Bearer "+c.given)
			}
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			assert.Equal(t, c.status, resp.StatusCode)
			if c.status != 401 {
				assert.Contains(t, string(body), c.body)
				assert.Equal(t, 1, calls)
			} else {
				assert.Zero(t, calls)
			}
		})
	}
}
