package admin

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The actions of audit lines.
const (
	actionReset       = "reset"
	actionEndPermits  = "end_permits"
	actionReload      = "reload"
	actionSetOverride = "set_override"
	actionEndOverride = "end_override"
)

// actorLoopback is who acted where there is no token: the admin plane then listens on loopback only.
const actorLoopback = "loopback"

type actorKey struct{}

// setActor says whose token a request sent.
func setActor(c *fiber.Ctx, name string) { c.Context().SetUserValue(actorKey{}, name) }

// actor returns who sent the request, as setActor was called.
func actor(c *fiber.Ctx) string {
	if name, ok := c.Context().UserValue(actorKey{}).(string); ok {
		return name
	}
	return actorLoopback
}

// change is what an operator changed, or tried to. before and after are values whose JSON is logged; nil is left out.
type change struct {
	action        string
	client        *ports.ClientID // nil if it is about no client
	key           string          // the client's, as the service shows it; "" if only shownKey knows
	permit        string          // the one that ended; "" for all, or none
	before, after any
	err           error
}

// audit logs a change: its action, policy, key, actor, peer, before, after and requestID. It logs nothing for a change that was
// refused. One that the store failed may have been made, or made in part: the line then has the error.
func (a *Server) audit(c *fiber.Ctx, made change) {
	if made.err != nil && !storeFailed(made.err) {
		return
	}
	fields := []zap.Field{zap.String("action", made.action)}
	if id := made.client; id != nil {
		fields = append(fields, zap.String("policy", id.Policy), zap.String("key", cmp.Or(made.key, a.shownKey(*id))))
		if id.Source != "" {
			fields = append(fields, zap.String("source", id.Source))
		}
	}
	if made.permit != "" {
		fields = append(fields, zap.String("permit", made.permit))
	}
	fields = append(fields, zap.String("actor", actor(c)), zap.Stringer("peer", c.Context().RemoteAddr()))
	fields = appendJSON(fields, "before", made.before)
	fields = appendJSON(fields, "after", made.after)
	if made.err != nil {
		fields = append(fields, zap.Error(made.err))
	}
	a.log.Info("Audit", append(fields, zap.String("requestID", strings.Clone(reply.RequestID(c.Context()))))...)
}

// storeFailed reports whether one of the calls of a change failed. Others may have been carried out.
func storeFailed(err error) bool {
	failures := []error{ports.ErrUnavailable, ports.ErrOverloaded, ports.ErrCorrupt, ports.ErrInvalidTake}
	return slices.ContainsFunc(failures, func(failure error) bool { return errors.Is(err, failure) })
}

// appendJSON appends a field with the JSON of a value, unless that is nil.
func appendJSON(fields []zap.Field, name string, value any) []zap.Field {
	if value == nil {
		return fields
	}
	text, err := json.Marshal(value, jsontext.AllowInvalidUTF8(true), json.Deterministic(true))
	if err != nil {
		return append(fields, zap.NamedError(name+"Error", err)) // only a value that has no JSON
	}
	return append(fields, zap.Reflect(name, jsontext.Value(text)))
}

// WithShownKeys sets the text by which audit lines name the key of a client: shown returns it. Without this option, they show the key
// as the request has it, which must not be where a policy's keys are secret.
func WithShownKeys(shown func(id ports.ClientID) string) Option {
	return func(a *Server, _ fiber.Handler) { a.shownKey = shown }
}
