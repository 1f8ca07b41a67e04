package admin

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/overridejson"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// buckets reads and resets one client's limits, /v1/buckets/{policy}/{key}, and ends its permits, /v1/permits/{policy}/{key} and
// /v1/permits/{policy}/{key}/{id}, with the key percent-encoded.
type buckets struct {
	inspector ports.Inspector
	audit     func(*fiber.Ctx, change)
}

func (b *buckets) inspect(c *fiber.Ctx) error {
	id, err := clientID(c)
	if err != nil {
		return err
	}
	report, err := b.inspector.Inspect(c.UserContext(), id)
	switch {
	case errors.Is(err, ports.ErrUnavailable):
		return fmt.Errorf("%w: %w", problem.ErrNotRead, err)
	case err != nil:
		return err
	}
	return answerJSON(c, bucketsJSON(cmp.Or(report.Key, id.Key), &report))
}

func (b *buckets) reset(c *fiber.Ctx) error {
	id, err := clientID(c)
	if err != nil {
		return err
	}
	before := b.limitsBefore(c, id)
	err = b.inspector.Reset(c.UserContext(), id)
	b.audit(c, change{action: actionReset, client: &id, before: before, err: err})
	if err == nil {
		c.Context().SetStatusCode(fasthttp.StatusNoContent)
	}
	return err
}

// limitsBefore returns the JSON of a client's limits, for the audit line of a change that follows; nil if they cannot be read, which
// the change may repair.
func (b *buckets) limitsBefore(c *fiber.Ctx, id ports.ClientID) any {
	report, err := b.inspector.Inspect(c.UserContext(), id)
	if err != nil {
		return nil
	}
	return bucketsJSON("", &report).Limits
}

// endPermits ends the permit that the path names, or all.
func (b *buckets) endPermits(c *fiber.Ctx) error {
	id, err := clientID(c)
	if err != nil {
		return err
	}
	permit, err := unescape(c, "id")
	if err != nil {
		return err
	}
	ended, err := b.inspector.EndPermits(c.UserContext(), id, permit)
	b.audit(c, change{
		action: actionEndPermits, client: &id, permit: permit, after: map[string]int{"ended": ended}, err: err,
	})
	switch {
	case errors.Is(err, ports.ErrUnavailable), errors.Is(err, ports.ErrOverloaded):
		return fmt.Errorf("%w: %w", problem.ErrSendAgain, err)
	case err != nil:
		return err
	}
	return answerJSON(c, map[string]int{"ended": ended})
}

// clientID reads the client from the path and the query.
func clientID(c *fiber.Ctx) (ports.ClientID, error) {
	policy, err := unescape(c, "policy")
	if err != nil {
		return ports.ClientID{}, err
	}
	key, err := unescape(c, "key")
	if err != nil {
		return ports.ClientID{}, err
	}
	source := string(c.Context().QueryArgs().Peek("source"))
	if _, err := clientkey.Parse(source); source != "" && err != nil {
		return ports.ClientID{}, problem.Input(problem.ErrOutOfRange, "source", "must be a key as in a policy file, or left out")
	}
	return ports.ClientID{Policy: policy, Key: key, Source: source}, nil
}

func unescape(c *fiber.Ctx, name string) (string, error) {
	value, err := url.PathUnescape(strings.Clone(c.Params(name)))
	if err != nil {
		return "", problem.Input(problem.ErrMalformed, name, "is not percent-encoded correctly")
	}
	return value, nil
}

// The JSON of one client's limits. Tokens has up to six decimals, and is below zero after a charge; Used is then above the
// limit. From FullAt on the bucket is full. The period is the one that Now is in. A limit of which nothing is stored was
// updated Now.
type (
	jsonBuckets struct {
		Policy string             `json:"policy"`
		Source string             `json:"source"`
		Key    string             `json:"key"`
		Store  decision.StoreName `json:"store"`
		Now    string             `json:"now"`
		Limits []any              `json:"limits"` // of jsonBucket, jsonQuota and jsonConcurrency
		// Override is what operators set for the client at run time.
		Override *overridejson.Override `json:"override,omitzero"`
		// Conditions are the sources by whose values requests of the client get other limits than these.
		Conditions []string `json:"conditions,omitempty"`
	}
	jsonBucket struct {
		Name      string         `json:"name"`
		Kind      string         `json:"kind"`
		Rate      string         `json:"rate"`
		Capacity  domain.Tokens  `json:"capacity"`
		Limit     domain.Tokens  `json:"limit"` // the capacity, for programs that know no kinds
		Tokens    jsontext.Value `json:"tokens"`
		UpdatedAt string         `json:"updated_at"`
		FullAt    string         `json:"full_at"`
		ExpiresAt string         `json:"expires_at"` // as FullAt, for programs that know no kinds
	}
	jsonQuota struct {
		Name        string        `json:"name"`
		Kind        string        `json:"kind"`
		Rate        string        `json:"rate"`
		Limit       domain.Tokens `json:"limit"`
		Used        domain.Tokens `json:"used"`
		PeriodStart string        `json:"period_start"`
		PeriodEnd   string        `json:"period_end"`
		UpdatedAt   string        `json:"updated_at"`
	}
	jsonConcurrency struct {
		Name      string        `json:"name"`
		Kind      string        `json:"kind"`
		Limit     domain.Tokens `json:"limit"`
		HeldTotal domain.Tokens `json:"held_total"`
		Held      []jsonPermit  `json:"held"` // at most domain.MaxListed
	}
	// jsonPermit is a permit. Cost and Since are what its ID says, by the clock of the process that asked for it; left out if the
	// ID says nothing.
	jsonPermit struct {
		ID        string        `json:"id"`
		Since     string        `json:"since,omitzero"`
		ExpiresAt string        `json:"expires_at"`
		Cost      domain.Tokens `json:"cost,omitzero"`
	}
)

func bucketsJSON(key string, r *ports.BucketReport) jsonBuckets {
	out := jsonBuckets{
		Policy: r.Policy, Source: r.Source, Key: key, Store: r.Store, Now: instantJSON(r.Now),
		Limits: make([]any, len(r.Limits)), Conditions: r.Conditions,
	}
	for i := range r.Limits {
		out.Limits[i] = levelJSON(&r.Limits[i], r.Now)
	}
	if r.Override != nil {
		out.Override = new(overridejson.Of(r.Override))
	}
	return out
}

func levelJSON(level *ports.LimitLevel, now domain.Instant) any {
	l, s := &level.Limit, level.State
	kind, updated := l.Kind().String(), instantJSON(s.At)
	if c := l.Concurrency(); c != nil {
		return jsonConcurrency{
			Name: l.Name(), Kind: kind, Limit: l.Capacity(), HeldTotal: c.Held(s), Held: permitsJSON(level.Permits),
		}
	}
	if q := l.Quota(); q != nil {
		start, end, _ := q.Periods().At(now)
		return jsonQuota{
			Name: l.Name(), Kind: kind, Rate: l.Rate(), Limit: l.Capacity(), Used: q.Used(s),
			PeriodStart: instantJSON(start), PeriodEnd: instantJSON(end), UpdatedAt: updated,
		}
	}
	full := instantJSON(l.FullAt(s))
	return jsonBucket{
		Name: l.Name(), Kind: kind, Rate: l.Rate(), Capacity: l.Capacity(), Limit: l.Capacity(), Tokens: appendTokens(nil, s),
		UpdatedAt: updated, FullAt: full, ExpiresAt: full,
	}
}

func permitsJSON(permits []domain.Permit) []jsonPermit {
	list := make([]jsonPermit, len(permits))
	for i, p := range permits {
		list[i] = jsonPermit{ID: p.ID, ExpiresAt: instantJSON(p.Expires)}
		if cost, since, ok := domain.ParsePermitID(p.ID); ok && cost > 0 && since > 0 && since <= p.Expires {
			list[i].Since, list[i].Cost = instantJSON(since), cost
		}
	}
	return list
}

func instantJSON(i domain.Instant) string { return i.Time().Format(time.RFC3339Nano) }

// appendTokens writes credits as tokens with up to six decimals, rounded down.
func appendTokens(dst []byte, b domain.State) []byte {
	if b.TokenCredits <= 0 {
		return append(dst, "null"...)
	}
	scale := big.NewInt(1_000_000)
	millionths := new(big.Int).Mul(big.NewInt(int64(b.Amount)), scale)
	millionths.Div(millionths, big.NewInt(int64(b.TokenCredits)))
	text := new(big.Rat).SetFrac(millionths, scale).FloatString(6)
	return append(dst, strings.TrimSuffix(strings.TrimRight(text, "0"), ".")...)
}
