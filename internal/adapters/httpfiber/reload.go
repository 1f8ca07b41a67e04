package httpfiber

import (
	"strconv"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// Reloaded is what is in force after a reload.
type Reloaded struct {
	Policies int
	// Version differs whenever the policies' source does.
	Version string
}

// WithReload has POST /v1/reload call reload. Its error says why the policies of before stay in force: 422, with all that
// is wrong in the member errors.
func WithReload(reload func() (Reloaded, error)) AdminOption {
	return func(a *Admin, token fiber.Handler) {
		a.http.app.Post("/v1/reload", token, func(c *fiber.Ctx) error {
			ctx := c.Context()
			now, err := reload()
			if err != nil {
				p := problem{
					status: fasthttp.StatusUnprocessableEntity,
					detail: "the policies are not reloaded: those of before stay in force",
					extra:  appendErrors(nil, err),
				}
				writeProblem(ctx, &p)
				return nil
			}
			body := append([]byte(`{"policies":`), strconv.Itoa(now.Policies)...)
			body = append(body, `,"version":`...)
			writeJSON(ctx, append(appendString(body, now.Version), '}'))
			return nil
		})
	}
}

// appendErrors lists what an error joins.
func appendErrors(dst []byte, err error) []byte {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	dst = append(dst, `,"errors":[`...)
	for i, e := range all {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, e.Error())
	}
	return append(dst, ']')
}
