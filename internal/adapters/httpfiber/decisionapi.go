package httpfiber

import (
	"bytes"
	"errors"
	"sync"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// decisionAPI answers whoever asks on behalf of a client. Its answers carry no rate limit headers: those are about
// the request that carries them.
type decisionAPI struct {
	limiter ports.Limiter
}

// decide answers /v1/check, /v1/refund and /v1/charge.
func (a *decisionAPI) decide(op domain.Op) fiber.Handler {
	return func(c *fiber.Ctx) error {
		ctx := c.Context()
		q, err := readCheck(ctx)
		if err != nil {
			return err
		}
		if err := q.validate(op); err != nil {
			return err
		}
		req := q.request(op, requestID(ctx))
		req.TraceID = traceIDOf(ctx)
		d, err := a.limiter.Decide(contextOf(ctx), req)
		if err != nil {
			return inBody(err)
		}
		noteDecision(ctx, &d)
		if unavailable(&d) {
			p := denied(&d)
			writeProblem(ctx, &p)
			return nil
		}
		buf := getBuffer()
		*buf = appendResult(*buf, &d)
		writeJSON(ctx, *buf)
		putBuffer(buf)
		return nil
	}
}

func readCheck(ctx *fasthttp.RequestCtx) (check, error) {
	if err := wantJSON(&ctx.Request.Header); err != nil {
		return check{}, err
	}
	return parseCheck(ctx.Request.Body())
}

// validate refuses values that are out of range; what cannot be read was refused before.
func (q *check) validate(op domain.Op) error {
	switch {
	case q.keyGiven && q.key == "":
		return &inputError{errOutOfRange, "key", "must not be empty"}
	case q.policy == "":
		return &inputError{errOutOfRange, "policy", "must not be empty"}
	}
	return op.CheckCost(q.cost)
}

// inBody names what a request lacks as its body would: the values of keys are attributes there.
func inBody(err error) error {
	if err == nil {
		return nil
	}
	var field *domain.FieldError // made here: it escapes
	if errors.As(err, &field) {
		if _, notSource := domain.ParseKeySource(field.Field); notSource == nil {
			return &domain.FieldError{Kind: field.Kind, Field: "attributes." + field.Field, Reason: "must be given: a limit of the policy counts by it"}
		}
	}
	return err
}

// unavailable reports that there is no verdict to tell: the store failed, and the policy refuses.
func unavailable(d *domain.Decision) bool {
	return d.Outcome == domain.OutcomeUnavailable && !d.Allowed()
}

func (q *check) request(op domain.Op, id string) domain.Request {
	lookup := noValue
	if len(q.attributes.values) > 0 {
		lookup = q.attributes.lookup
	}
	return domain.Request{
		Op: op, Cost: q.cost, Policy: q.policy, Key: q.key,
		Client: q.attributes.client, Lookup: lookup, ID: id,
	}
}

// batch is the working memory of one /v1/checks.
type batch struct {
	checks  []check
	invalid []error // per check; nil: it is asked
	reqs    []domain.Request
	answers []ports.Answer // per request that is asked
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// answersFor keeps what the slots point to: the limiter writes into the same memory again.
func (b *batch) answersFor(n int) []ports.Answer {
	if n > cap(b.answers) {
		b.answers = append(b.answers[:cap(b.answers)], make([]ports.Answer, n-cap(b.answers))...)
	}
	b.answers = b.answers[:n]
	return b.answers
}

// release forgets what the requests held, so that the pool does not keep it alive.
func (b *batch) release() {
	clear(b.checks)
	clear(b.invalid)
	clear(b.reqs)
	for i := range b.answers {
		b.answers[i] = emptied(b.answers[i])
	}
	b.checks, b.invalid, b.reqs = b.checks[:0], b.invalid[:0], b.reqs[:0]
	batches.Put(b)
}

// emptied keeps nothing of an answer but memory for the next.
func emptied(a ports.Answer) ports.Answer {
	return ports.Answer{Decision: domain.Decision{Limits: a.Decision.Limits[:0]}}
}

// decideMany answers /v1/checks. A check that cannot be read fails the whole call, since nothing is known of what
// its sender meant; one that is merely refused has a problem in its place.
func (a *decisionAPI) decideMany(c *fiber.Ctx) error {
	ctx := c.Context()
	if err := wantJSON(&ctx.Request.Header); err != nil {
		return err
	}
	b := batches.Get().(*batch)
	defer b.release()
	var err error
	if b.checks, err = parseChecks(b.checks, ctx.Request.Body()); err != nil {
		return err
	}
	id, traceID := requestID(ctx), traceIDOf(ctx)
	for i := range b.checks {
		invalid := b.checks[i].validate(domain.OpTake)
		b.invalid = append(b.invalid, invalid)
		if invalid == nil {
			req := b.checks[i].request(domain.OpTake, id)
			req.TraceID = traceID
			b.reqs = append(b.reqs, req)
		}
	}
	if len(b.reqs) > 0 {
		answers := b.answersFor(len(b.reqs))
		a.limiter.DecideMany(contextOf(ctx), b.reqs, answers)
		noteDecisions(ctx, answers)
	}
	buf := getBuffer()
	*buf = b.appendResults(*buf, id, instance(ctx))
	writeJSON(ctx, *buf)
	putBuffer(buf)
	return nil
}

func (b *batch) appendResults(dst []byte, id, instance string) []byte {
	dst = append(dst, `{"results":[`...)
	asked := 0
	for i, err := range b.invalid {
		if i > 0 {
			dst = append(dst, ',')
		}
		var answer ports.Answer
		if err == nil {
			answer = b.answers[asked]
			err = inBody(answer.Err)
			asked++
		}
		switch {
		case err != nil:
			p := problemOf(err)
			dst = p.appendJSON(dst, id, instance, i)
		case unavailable(&answer.Decision):
			p := denied(&answer.Decision)
			dst = p.appendJSON(dst, id, instance, i)
		default:
			dst = appendResult(dst, &answer.Decision)
		}
	}
	return append(dst, "]}"...)
}

// wantJSON refuses what a web page of somebody else could send without asking (only application/json needs the
// browser's preflight), and compressed bodies, whose size the caps could not bound.
func wantJSON(h *fasthttp.RequestHeader) error {
	mediaType, _, _ := bytes.Cut(h.ContentType(), []byte(";"))
	if !bytes.EqualFold(bytes.TrimSpace(mediaType), []byte(contentTypeJSON)) {
		return &inputError{errMediaType, fasthttp.HeaderContentType, "must be " + contentTypeJSON}
	}
	if len(h.PeekAll(fasthttp.HeaderContentEncoding)) > 0 {
		return &inputError{errMediaType, fasthttp.HeaderContentEncoding, "must not be used"}
	}
	return nil
}

func writeJSON(ctx *fasthttp.RequestCtx, body []byte) {
	ctx.SetContentType(contentTypeJSON)
	ctx.SetBody(body)
}
