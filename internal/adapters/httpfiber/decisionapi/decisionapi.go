// Package decisionapi serves programs that ask on behalf of their clients: checks, alone and in batches, refunds and charges, and the
// release and renewal of permits.
package decisionapi

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/httpserver"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/span"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/bearer"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// decisionAPI decides for clients other than the caller. Its answers carry no rate limit headers, which would be about the
// caller.
type decisionAPI struct {
	limiter ports.Limiter
	permits ports.Permits
}

const (
	checksPath  = "/v1/checks"
	releasePath = "/v1/release"
	renewPath   = "/v1/renew"

	// MaxLargeBody is the size of the largest body of the paths of LargeBody.
	MaxLargeBody = 1 << 20
)

// LargeBody reports whether a path, in its normal form, has larger bodies than others: many checks, or a permit, which is several
// times as long as the check that it is for.
func LargeBody(path string) bool {
	return path == checksPath || path == releasePath || path == renewPath
}

// Mount adds the routes of the decision API to app. Callers need a token or, while none is set, must be this machine or
// one of the trusted proxies, asking for themselves.
func Mount(app *fiber.App, limiter ports.Limiter, permits ports.Permits, tokens *bearer.Tokens, proxies clientid.Proxies) {
	api, allowed := &decisionAPI{limiter, permits}, guard(tokens, proxies)
	app.Post("/v1/check", allowed, api.decide(domain.OpTake))
	app.Post(checksPath, allowed, api.decideMany)
	app.Post("/v1/refund", allowed, api.decide(domain.OpRefund))
	app.Post("/v1/charge", allowed, api.decide(domain.OpCharge))
	app.Post(releasePath, allowed, api.release)
	app.Post(renewPath, allowed, api.renew)
}

// decide answers /v1/check, /v1/refund and /v1/charge.
func (a *decisionAPI) decide(op domain.Op) fiber.Handler {
	return func(c *fiber.Ctx) error {
		ctx := c.Context()
		if err := httpserver.WantJSON(&ctx.Request.Header); err != nil {
			return err
		}
		q, err := parseCheck(ctx.Request.Body(), op)
		if err != nil {
			return err
		}
		if err := q.validate(op); err != nil {
			return err
		}
		active, _ := span.Of(ctx)
		d, err := a.limiter.Decide(active.Context(), q.request(op, reply.RequestID(ctx), active.TraceID()))
		if err != nil {
			return inBody(err)
		}
		active.Decided(&d)
		if unavailable(&d) {
			p := problem.Denied(&d)
			reply.Problem(ctx, &p)
			return nil
		}
		reply.AppendJSON(ctx, func(dst []byte) []byte { return appendResult(dst, op, &d) })
		return nil
	}
}

// validate refuses values that are out of range.
func (q *check) validate(op domain.Op) error {
	switch {
	case q.given.key && q.key == "":
		return problem.Input(problem.ErrOutOfRange, "key", "must not be empty")
	case q.policy == "":
		return problem.Input(problem.ErrOutOfRange, "policy", "must not be empty")
	case q.takenAt < 0 || q.takenAt > maxTakenAt:
		return problem.Input(problem.ErrOutOfRange, "taken_at_us", "must be from 0 to "+strconv.FormatInt(maxTakenAt, 10))
	case q.maxWaitMS < 0 || q.maxWaitMS > maxWaitMS:
		return problem.Input(problem.ErrOutOfRange, "max_wait_ms", "must be from 0 to "+strconv.FormatInt(maxWaitMS, 10))
	}
	return op.CheckCost(q.cost)
}

// inBody renames the field of an error about a missing key value to the attribute that would have given it. A key that the policy
// does not let be missing is a value of the body, too, and not the caller's own credential: 422, not 401.
func inBody(err error) error {
	if err == nil {
		return nil
	}
	var field *domain.FieldError // made here: it escapes
	if errors.As(err, &field) {
		if errors.Is(err, domain.ErrMissingKey) {
			return &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must not be empty: the policy refuses requests without it"}
		}
		if _, notSource := clientkey.ParseSource(field.Field); notSource == nil {
			return &domain.FieldError{Kind: field.Kind, Field: "attributes." + field.Field, Reason: "must be given: a limit of the policy counts by it"}
		}
	}
	return err
}

// unavailable reports whether there is no verdict, because the store failed and the policy fails closed.
func unavailable(d *decision.Decision) bool {
	return d.Outcome == decision.OutcomeUnavailable && !d.Allowed()
}

func (q *check) request(op domain.Op, id, traceID string) policy.Request {
	lookup := noValue
	if len(q.attributes) > 0 {
		lookup = q.attributes.lookup
	}
	return policy.Request{
		Op: op, Cost: q.cost, TakenAt: q.takenAt, Policy: q.policy, Key: q.key, Client: q.client, Lookup: lookup, ID: id, TraceID: traceID,
		MaxWait: time.Duration(q.maxWaitMS) * time.Millisecond, HoldsPermit: op == domain.OpTake,
		Trusted:   true, // the caller says what its client may have, as it says the key, and what a request may cost
		Estimated: op == domain.OpTake && !q.given.cost,
	}
}

// batch is the memory of one /v1/checks, which later ones use again.
type batch struct {
	checks  []check
	reqs    []policy.Request // of the checks that are valid
	answers []ports.Answer   // one for each of reqs
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// answersFor returns n answers. It keeps the memory that they point to, which the limiter writes into again.
func (b *batch) answersFor(n int) []ports.Answer {
	if n > cap(b.answers) {
		b.answers = append(b.answers[:cap(b.answers)], make([]ports.Answer, n-cap(b.answers))...)
	}
	b.answers = b.answers[:n]
	return b.answers
}

// release puts b back into the pool, without what the requests held.
func (b *batch) release() {
	clear(b.checks)
	clear(b.reqs)
	for i := range b.answers {
		b.answers[i] = ports.Answer{Decision: decision.Decision{Limits: b.answers[i].Decision.Limits[:0]}}
	}
	b.checks, b.reqs = b.checks[:0], b.reqs[:0]
	batches.Put(b)
}

// decideMany answers /v1/checks. A check that is wrong has a problem in its place. Only a body that is no list of checks fails
// the whole call.
func (a *decisionAPI) decideMany(c *fiber.Ctx) error {
	ctx := c.Context()
	if err := httpserver.WantJSON(&ctx.Request.Header); err != nil {
		return err
	}
	b := batches.Get().(*batch)
	defer b.release()
	var err error
	if b.checks, err = parseChecks(b.checks, ctx.Request.Body()); err != nil {
		return err
	}
	id := reply.RequestID(ctx)
	active, _ := span.Of(ctx)
	for i := range b.checks {
		q := &b.checks[i]
		if q.invalid == nil {
			q.invalid = q.validate(domain.OpTake)
		}
		if q.invalid == nil {
			b.reqs = append(b.reqs, q.request(domain.OpTake, id, active.TraceID()))
		}
	}
	if len(b.reqs) > 0 {
		answers := b.answersFor(len(b.reqs))
		a.limiter.DecideMany(active.Context(), b.reqs, answers)
		active.DecidedMany(answers)
	}
	reply.AppendJSON(ctx, func(dst []byte) []byte { return b.appendResults(dst, id, reply.Instance(ctx)) })
	return nil
}

func (b *batch) appendResults(dst []byte, id, instance string) []byte {
	dst = append(dst, `{"results":[`...)
	asked := 0
	for i := range b.checks {
		if i > 0 {
			dst = append(dst, ',')
		}
		err := b.checks[i].invalid
		var answer ports.Answer
		if err == nil {
			answer = b.answers[asked]
			err = inBody(answer.Err)
			asked++
		}
		switch {
		case err != nil:
			p := problem.Of(err)
			dst = p.AppendJSON(dst, id, instance, i)
		case unavailable(&answer.Decision):
			p := problem.Denied(&answer.Decision)
			dst = p.AppendJSON(dst, id, instance, i)
		default:
			dst = appendResult(dst, domain.OpTake, &answer.Decision)
		}
	}
	return append(dst, "]}"...)
}
