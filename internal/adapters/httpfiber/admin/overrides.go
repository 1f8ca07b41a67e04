package admin

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/httpserver"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/overridejson"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// The number of overrides on a page.
const (
	usualPage   = 100
	longestPage = 1000
)

// WithOverrides serves the overrides that operators set for single clients at run time: /v1/overrides/{policy}/{key} reads, sets and
// ends one, and /v1/overrides/{policy} lists them. /readyz then says if they are not known yet.
func WithOverrides(set ports.Overrides) Option {
	return func(a *Server, token fiber.Handler) {
		a.overrides, a.readiness.overrides = set, set.OverridesStatus
		// Local never changes, and a status counts the overrides in force, one by one.
		local := sync.OnceValue(func() bool { return set.OverridesStatus().Local })
		o := &overrides{set: set, local: local, audit: a.audit}
		a.http.App.Get("/v1/overrides/:policy", token, o.list)
		a.http.App.Get("/v1/overrides/:policy/:key", token, o.get)
		a.http.App.Put("/v1/overrides/:policy/:key", token, o.put)
		a.http.App.Delete("/v1/overrides/:policy/:key", token, o.end)
	}
}

type overrides struct {
	set   ports.Overrides
	local func() bool
	audit func(*fiber.Ctx, change)
}

// The JSON of the answers. Local says that the overrides are those of this process, and end with it.
type (
	jsonOverride struct {
		overridejson.Override
		Local bool `json:"local,omitzero"`
	}
	jsonOverrides struct {
		Overrides []overridejson.Override `json:"overrides"`
		Next      string                  `json:"next,omitzero"` // the cursor of the next page; left out after the last
		Local     bool                    `json:"local,omitzero"`
	}
)

func (o *overrides) answer(c *fiber.Ctx, found *ports.Override) error {
	return answerJSON(c, jsonOverride{overridejson.Of(found), o.local()})
}

func (o *overrides) get(c *fiber.Ctx) error {
	id, err := clientID(c)
	if err != nil {
		return err
	}
	found, err := o.set.Override(c.UserContext(), id)
	if err != nil {
		return unread(err)
	}
	return o.answer(c, &found)
}

func (o *overrides) put(c *fiber.Ctx) error {
	id, err := clientID(c)
	if err != nil {
		return err
	}
	if err := httpserver.WantJSON(&c.Context().Request.Header); err != nil {
		return err
	}
	wanted, err := overridejson.Parse(bytes.Clone(c.Body()), time.Now())
	if err != nil {
		return err
	}
	nameLimits(wanted.Limits, id.Policy)
	before, after, err := o.set.SetOverride(c.UserContext(), id, wanted)
	made := change{action: actionSetOverride, client: &id, key: after.Key, after: withoutKey(&after), err: err}
	if before != nil {
		made.before = withoutKey(before)
	}
	if err != nil {
		made.after = withoutKey(&wanted)
	}
	o.audit(c, made)
	if err != nil {
		return unmade(err)
	}
	return o.answer(c, &after)
}

// nameLimits gives the limits without a name that of their policy, or of the shared limit, as in the policy file.
func nameLimits(limits []limitspec.Spec, policyName string) {
	for i := range limits {
		limits[i].Name = cmp.Or(limits[i].Name, strings.TrimPrefix(policyName, policy.SharedPrefix))
	}
}

func (o *overrides) end(c *fiber.Ctx) error {
	id, err := clientID(c)
	if err != nil {
		return err
	}
	before, err := o.set.EndOverride(c.UserContext(), id)
	made := change{action: actionEndOverride, client: &id, key: before.Key, err: err}
	if err == nil {
		made.before = withoutKey(&before)
	}
	o.audit(c, made)
	if err != nil {
		return unmade(err)
	}
	c.Context().SetStatusCode(fasthttp.StatusNoContent)
	return nil
}

func (o *overrides) list(c *fiber.Ctx) error {
	policyName, err := unescape(c, "policy")
	if err != nil {
		return err
	}
	query := c.Context().QueryArgs()
	limit := usualPage
	if text := query.Peek("limit"); text != nil {
		if limit, err = strconv.Atoi(string(text)); err != nil || limit < 1 || limit > longestPage {
			return problem.Input(problem.ErrOutOfRange, "limit", fmt.Sprintf("must be from 1 to %d", longestPage))
		}
	}
	page, next, err := o.set.ListOverrides(c.UserContext(), policyName, string(query.Peek("after")), limit)
	if err != nil {
		return unread(err)
	}
	out := jsonOverrides{Overrides: make([]overridejson.Override, len(page)), Next: next, Local: o.local()}
	for i := range page {
		out.Overrides[i] = overridejson.Of(&page[i])
	}
	return answerJSON(c, out)
}

// withoutKey is the JSON of an override for an audit line, which names the client by itself.
func withoutKey(o *ports.Override) overridejson.Override {
	out := overridejson.Of(o)
	out.Key, out.Source = "", ""
	return out
}

// unread is the error of a request that changes nothing.
func unread(err error) error { return ifUnavailable(problem.ErrNotRead, err) }

// unmade is the error of a change that may be sent again.
func unmade(err error) error { return ifUnavailable(problem.ErrSendAgain, err) }

func ifUnavailable(kind, err error) error {
	if errors.Is(err, ports.ErrUnavailable) {
		return fmt.Errorf("%w: %w", kind, err)
	}
	return err
}
