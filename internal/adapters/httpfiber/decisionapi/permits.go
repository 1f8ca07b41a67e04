package decisionapi

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/httpserver"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/span"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// release answers /v1/release.
func (a *decisionAPI) release(c *fiber.Ctx) error {
	ctx := c.Context()
	if err := httpserver.WantJSON(&ctx.Request.Header); err != nil {
		return err
	}
	held, err := parseHeld(ctx.Request.Body(), true)
	if err != nil {
		return err
	}
	active, _ := span.Of(ctx)
	released, err := a.permits.Release(active.Context(), held.permit, held.cost)
	if err != nil {
		return sendAgain(err)
	}
	reply.AppendJSON(ctx, func(dst []byte) []byte {
		dst = append(dst, `{"released":`...)
		return append(strconv.AppendBool(dst, released), '}')
	})
	return nil
}

// renew answers /v1/renew.
func (a *decisionAPI) renew(c *fiber.Ctx) error {
	ctx := c.Context()
	if err := httpserver.WantJSON(&ctx.Request.Header); err != nil {
		return err
	}
	held, err := parseHeld(ctx.Request.Body(), false)
	if err != nil {
		return err
	}
	active, _ := span.Of(ctx)
	lease, err := a.permits.Renew(active.Context(), held.permit)
	if err != nil {
		return sendAgain(err)
	}
	reply.AppendJSON(ctx, func(dst []byte) []byte { return append(appendExpiry(append(dst, '{'), lease), '}') })
	return nil
}

// sendAgain marks the error of a store that does not answer: unlike a take, a release or a renewal may be sent again.
func sendAgain(err error) error {
	if errors.Is(err, ports.ErrUnavailable) {
		return fmt.Errorf("%w: %w", problem.ErrSendAgain, err)
	}
	return err
}

// appendExpiry writes how long a permit is valid. It rounds down: no one shall count on a permit that has expired.
func appendExpiry(dst []byte, lease time.Duration) []byte {
	dst = append(dst, `"permit_expires_after_ms":`...)
	return strconv.AppendInt(dst, lease.Milliseconds(), 10)
}

// held is the body of /v1/release or /v1/renew.
type held struct {
	permit string
	cost   domain.Tokens // of a release; ports.Unsettled if it has none
}

// parseHeld reads the body of /v1/release, or of /v1/renew, which has no cost.
func parseHeld(body []byte, hasCost bool) (held, error) {
	h := held{cost: ports.Unsettled}
	var given struct{ permit, cost bool }
	err := parse(body, func(d *decoder) error {
		return d.each('{', "an object", func(name string) (err error) {
			switch {
			case name == "permit":
				if err = d.once(&given.permit); err == nil {
					h.permit, err = d.text()
				}
			case name == "cost" && hasCost:
				if err = d.once(&given.cost); err == nil {
					var n int64
					n, err = d.integer(int64(domain.MaxCost))
					h.cost = domain.Tokens(n)
				}
			default:
				err = d.wrong(problem.ErrMalformed, "is not a known field")
			}
			return err
		})
	})
	switch {
	case err != nil:
		return h, err
	case !given.permit:
		return h, problem.Input(problem.ErrMalformed, "permit", "is missing")
	case h.permit == "":
		return h, problem.Input(problem.ErrOutOfRange, "permit", "must not be empty")
	case given.cost:
		return h, domain.OpTake.CheckCost(h.cost)
	}
	return h, nil
}
