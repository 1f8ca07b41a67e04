package httpfiber

import (
	"github.com/gofiber/fiber/v2"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// WithPolicies serves the policies in force, in the order in which they are tried, at /v1/policies.
func WithPolicies(inForce func() []*domain.Policy) AdminOption {
	return func(a *Admin, token fiber.Handler) {
		a.http.app.Get("/v1/policies", token, func(c *fiber.Ctx) error {
			out := jsonPolicies{Policies: []jsonPolicy{}}
			for _, p := range inForce() {
				out.Policies = append(out.Policies, policyJSON(p))
			}
			return answerJSON(c, out)
		})
	}
}

// The JSON of /v1/policies: names and forms are those of a policy file. Of patterns, of which there may be a hundred
// thousand, it has the number.
type (
	jsonPolicies struct {
		Policies []jsonPolicy `json:"policies"`
	}
	jsonPolicy struct {
		Name           string        `json:"name"`
		Match          jsonMatch     `json:"match,omitzero"`
		Key            []string      `json:"key"`
		Cost           domain.Tokens `json:"cost"`
		CostHeader     string        `json:"cost_header,omitzero"`
		Limits         []jsonLimit   `json:"limits"`
		Overrides      int           `json:"overrides"`
		Exempt         int           `json:"exempt"`
		Block          int           `json:"block"`
		Mode           string        `json:"mode"`
		OnStoreFailure string        `json:"on_store_failure"`
		RefundOn       string        `json:"refund_on,omitzero"`
	}
	jsonMatch struct {
		Methods    []string `json:"methods,omitempty"`
		Host       string   `json:"host,omitzero"`
		Path       string   `json:"path,omitzero"`
		Domain     string   `json:"domain,omitzero"`
		Descriptor []string `json:"descriptor,omitempty"`
	}
	jsonLimit struct {
		Name     string        `json:"name"`
		Rate     string        `json:"rate"`
		Capacity domain.Tokens `json:"capacity"`
		Key      []string      `json:"key,omitempty"` // if it has one of its own
	}
)

func policyJSON(p *domain.Policy) jsonPolicy {
	out := jsonPolicy{
		Name: p.Name, Match: matchJSON(&p.Match), Key: keyJSON(p.OwnKey()), Cost: p.Cost.Tokens(), CostHeader: p.Cost.Header,
		Limits: make([]jsonLimit, len(p.Limits)), Overrides: len(p.Overrides), Exempt: len(p.Exempt), Block: len(p.Block),
		Mode: p.Mode.String(), OnStoreFailure: string(p.OnStoreFailure), RefundOn: p.RefundOn.String(),
	}
	for i := range p.Limits {
		l := &p.Limits[i]
		refill, per := l.Rate()
		out.Limits[i] = jsonLimit{Name: l.Name(), Rate: domain.FormatRate(refill, per), Capacity: l.Capacity()}
		if key, own := p.LimitKeys[l.Name()]; own {
			out.Limits[i].Key = keyJSON(key)
		}
	}
	return out
}

func matchJSON(m *domain.Match) jsonMatch {
	out := jsonMatch{Methods: m.Methods, Host: m.Host, Path: m.Path, Domain: m.Domain}
	for _, entry := range m.Descriptor {
		out.Descriptor = append(out.Descriptor, entry.String())
	}
	return out
}

func keyJSON(key domain.Key) []string {
	var list []string
	for _, source := range key.Sources() {
		list = append(list, source.String())
	}
	return list
}
