package override

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// Effect is what an override does. It has Limits, or Exempt, or Block.
type Effect struct {
	// Limits replace what they say of the policy's limits of their names. A Spec without a name is about the limit that has the
	// policy's name.
	Limits        []limitspec.Spec
	Exempt, Block bool
}

const exemptText, blockText = "exempt", "block"

// limitText is a Spec as it is stored: with the members of a policy file.
type limitText struct {
	Name       string        `json:"name,omitempty"`
	Rate       string        `json:"rate,omitempty"`
	Capacity   domain.Tokens `json:"capacity,omitempty"`
	Quota      string        `json:"quota,omitempty"`
	Zone       string        `json:"zone,omitempty"`
	Anchor     string        `json:"anchor,omitempty"`
	Concurrent domain.Tokens `json:"concurrent,omitempty"`
	Lease      string        `json:"lease,omitempty"`
	Cost       domain.Tokens `json:"cost,omitempty"`
}

// Text writes the effect as an [Entry] holds it.
func (e *Effect) Text() string {
	switch {
	case e.Block:
		return blockText
	case e.Exempt:
		return exemptText
	}
	list := make([]limitText, len(e.Limits))
	for i, s := range e.Limits {
		list[i] = limitText(s)
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic("override: limits have no JSON: " + err.Error()) // they are strings and numbers
	}
	return string(text)
}

// ParseEffect reads what [Effect.Text] wrote. It refuses what it does not know, as a newer release may have written it.
func ParseEffect(text string) (Effect, error) {
	switch text {
	case blockText:
		return Effect{Block: true}, nil
	case exemptText:
		return Effect{Exempt: true}, nil
	}
	var list []limitText
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return Effect{}, fmt.Errorf("what an override does is not readable: %w", err)
	}
	if _, err := d.Token(); len(list) == 0 || !errors.Is(err, io.EOF) {
		return Effect{}, errors.New("what an override does is not readable")
	}
	e := Effect{Limits: make([]limitspec.Spec, len(list))}
	for i, s := range list {
		e.Limits[i] = limitspec.Spec(s)
	}
	return e, nil
}

// SharedOnlyLimits is why an override of a shared limit is refused that exempts or blocks.
const SharedOnlyLimits = "an override of a shared limit changes the limit: set exempt and block for a policy"

// LimitsUnder returns the limits of the policy's that the effect replaces, in the form in which they then apply. The error joins
// a [domain.FieldError] for each field that does not fit the policy, such as "limits[0].name"; the limits that fit are returned
// all the same. To exempt or to block a client of a shared limit does not fit: such a client has no requests of its own.
func (e *Effect) LimitsUnder(p *policy.Policy) (limits []domain.Limit, err error) {
	if (e.Exempt || e.Block) && strings.HasPrefix(p.Name, policy.SharedPrefix) {
		return nil, &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: "policy", Value: strconv.Quote(p.Name), Reason: SharedOnlyLimits}
	}
	var errs []error
	seen := make(map[string]bool, len(e.Limits))
	for i, s := range e.Limits {
		limit, wrong := limitUnder(p, s)
		if wrong == nil && seen[limit.Name()] {
			wrong = &domain.FieldError{
				Kind: domain.ErrInvalidPolicy, Field: "name", Value: strconv.Quote(limit.Name()), Reason: "there are two limits of this name",
			}
		}
		if wrong != nil {
			for _, field := range domain.FieldErrors(wrong) {
				named := *field
				named.Field = "limits[" + strconv.Itoa(i) + "]." + field.Field
				errs = append(errs, &named)
			}
			continue
		}
		seen[limit.Name()] = true
		limits = append(limits, limit)
	}
	return limits, errors.Join(errs...)
}

func limitUnder(p *policy.Policy, s limitspec.Spec) (domain.Limit, error) {
	s.Name = cmp.Or(s.Name, strings.TrimPrefix(p.Name, policy.SharedPrefix))
	base, err := p.Replaceable(s.Name)
	if err != nil {
		return domain.Limit{}, err
	}
	limit, err := s.Override(limitspec.Of(&base))
	switch {
	case err != nil:
		return domain.Limit{}, err
	case limit.CostOf(p.Cost.Tokens()) > limit.Capacity():
		return domain.Limit{}, &domain.FieldError{
			Kind: domain.ErrInvalidPolicy, Field: "capacity", Value: strconv.FormatInt(int64(limit.Capacity()), 10),
			Reason: "must be at least " + strconv.FormatInt(int64(p.Cost.Tokens()), 10) + ", what a request costs under " + payer(p),
		}
	case limit.Kind() == domain.KindConcurrency && p.Match.ForEnvoy():
		return domain.Limit{}, &domain.FieldError{
			Kind: domain.ErrInvalidPolicy, Field: "concurrent", Value: strconv.FormatInt(int64(limit.Capacity()), 10),
			Reason: "a policy for Envoy cannot have a concurrency limit: Envoy does not say when a request ends",
		}
	}
	return limit, nil
}

// payer says whose requests cost what the policy says.
func payer(p *policy.Policy) string {
	if strings.HasPrefix(p.Name, policy.SharedPrefix) {
		return "a policy that uses this limit"
	}
	return "this policy"
}
