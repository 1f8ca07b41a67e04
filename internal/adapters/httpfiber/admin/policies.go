package admin

import (
	"fmt"
	"slices"

	"github.com/gofiber/fiber/v2"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// WithPolicies serves the policies in force at /v1/policies, in the order in which they are tried.
func WithPolicies(inForce func() []*policy.Policy) Option {
	return func(a *Server, token fiber.Handler) {
		a.http.App.Get("/v1/policies", token, func(c *fiber.Ctx) error {
			out := jsonPolicies{Policies: []jsonPolicy{}}
			for _, p := range inForce() {
				out.Policies = append(out.Policies, policyJSON(p))
			}
			if a.overrides != nil {
				out.Overridden = a.overrides.Overridden()
			}
			return answerJSON(c, out)
		})
	}
}

// The JSON of /v1/policies. Names and forms are those of a policy file. It has the number of patterns, not the patterns:
// there may be a hundred thousand.
type (
	jsonPolicies struct {
		Policies []jsonPolicy `json:"policies"`
		// Overridden are the policies and shared limits that have overrides at run time. They may be in the file no more.
		Overridden []string `json:"overridden,omitempty"`
	}
	jsonPolicy struct {
		Name       string        `json:"name"`
		Match      jsonMatch     `json:"match,omitzero"`
		Key        []string      `json:"key"`
		SecretKeys []string      `json:"secret_keys,omitempty"` // the sources that are secret, of all keys
		MissingKey string        `json:"missing_key,omitzero"`
		Cost       domain.Tokens `json:"cost"` // if it is neither in the header nor in the estimate
		CostHeader string        `json:"cost_header,omitzero"`
		jsonEstimate
		MaxWait        string      `json:"max_wait,omitzero"`
		Limits         []jsonLimit `json:"limits"`
		Overrides      int         `json:"overrides"`
		Exempt         int         `json:"exempt"`
		Block          int         `json:"block"`
		Mode           string      `json:"mode"`
		OnStoreFailure string      `json:"on_store_failure"`
		RefundOn       string      `json:"refund_on,omitzero"`
		SkipPreflight  bool        `json:"skip_preflight,omitzero"`
		Denied         *jsonDenied `json:"denied,omitempty"`
	}
	// jsonEstimate is a cost that is known afterwards.
	jsonEstimate struct {
		Estimate     []string       `json:"cost_estimate,omitempty"` // its headers and pointers; its number is cost
		Actual       []string       `json:"cost_actual,omitempty"`   // several are added up
		Missing      *domain.Tokens `json:"cost_missing,omitempty"`  // left out: the estimate
		Failed       domain.Tokens  `json:"cost_failed,omitzero"`
		IncludeUsage bool           `json:"cost_include_usage,omitzero"`
	}
	// jsonDenied has the answer's own parts: without a status it is 429, without a content type the body is a problem.
	jsonDenied struct {
		Status      int    `json:"status,omitzero"`
		ContentType string `json:"content_type,omitzero"`
	}
	jsonMatch struct {
		Methods    []string            `json:"methods,omitempty"`
		Host       string              `json:"host,omitzero"`
		Path       string              `json:"path,omitzero"`
		Headers    map[string][]string `json:"headers,omitempty"`
		Domain     string              `json:"domain,omitzero"`
		Descriptor []string            `json:"descriptor,omitempty"`
	}
	jsonLimit struct {
		Name string `json:"name"`
		Kind string `json:"kind"`

		Rate     string        `json:"rate,omitzero"`     // of a bucket
		Capacity domain.Tokens `json:"capacity,omitzero"` // of a bucket

		Quota  string `json:"quota,omitzero"`
		Zone   string `json:"zone,omitzero"`
		Anchor string `json:"anchor,omitzero"`

		Concurrent domain.Tokens `json:"concurrent,omitzero"`
		Lease      string        `json:"lease,omitzero"`

		Cost domain.Tokens `json:"cost,omitzero"` // if it has one of its own
		Key  []string      `json:"key,omitempty"` // if it has one of its own

		Shared bool `json:"shared,omitzero"` // other policies may use it, too; /v1/buckets names it shared/NAME
	}
)

func policyJSON(p *policy.Policy) jsonPolicy {
	out := jsonPolicy{
		Name: p.Name, Match: matchJSON(&p.Match), Key: keyJSON(p.EffectiveKey()), Cost: p.Cost.Tokens(), CostHeader: p.Cost.Header,
		jsonEstimate: estimateJSON(&p.Cost),
		Limits:       make([]jsonLimit, len(p.Limits)), Overrides: len(p.Overrides), Exempt: len(p.Exempt), Block: len(p.Block),
		Mode: p.Mode.String(), OnStoreFailure: string(p.OnStoreFailure), RefundOn: p.RefundOn.String(),
		SkipPreflight: p.SkipPreflight,
	}
	if own := p.Denied; own != nil {
		out.Denied = &jsonDenied{Status: own.Status(), ContentType: own.ContentType()}
	}
	if p.MissingKey != policy.MissingKeyAddress {
		out.MissingKey = p.MissingKey.String()
	}
	for _, g := range p.Groups() {
		for _, source := range g.Key {
			if text := source.String(); source.Secret() && !slices.Contains(out.SecretKeys, text) {
				out.SecretKeys = append(out.SecretKeys, text)
			}
		}
	}
	if p.MaxWait > 0 {
		out.MaxWait = domain.FormatDuration(p.MaxWait)
	}
	for i := range p.Limits {
		out.Limits[i] = limitJSON(&p.Limits[i])
		name := p.Limits[i].Name()
		out.Limits[i].Shared = p.Shared[name] != nil
		if _, own := p.LimitKeys[name]; own || out.Limits[i].Shared {
			out.Limits[i].Key = keyJSON(p.KeyOf(name))
		}
	}
	return out
}

func estimateJSON(c *policy.Cost) jsonEstimate {
	out := jsonEstimate{Actual: c.Actual.Sources(), Missing: c.Missing, Failed: c.Failed, IncludeUsage: c.IncludeUsage}
	for i := range c.Estimate {
		if s := &c.Estimate[i]; s.Number == 0 {
			out.Estimate = append(out.Estimate, s.String())
		}
	}
	return out
}

func limitJSON(l *domain.Limit) jsonLimit {
	out := jsonLimit{Name: l.Name(), Kind: l.Kind().String()}
	if c := l.Concurrency(); c != nil {
		out.Concurrent, out.Lease = l.Capacity(), domain.FormatDuration(c.Lease())
		return out
	}
	out.Cost = l.Cost()
	q := l.Quota()
	if q == nil {
		out.Rate, out.Capacity = l.Rate(), l.Capacity()
		return out
	}
	out.Quota = l.Rate()
	if s, ok := q.Periods().(*calendar.Schedule); ok {
		out.Quota, out.Zone, out.Anchor = fmt.Sprintf("%d/%s", l.Capacity(), s.Period()), s.Zone(), s.Anchor()
	}
	return out
}

func matchJSON(m *policy.Match) jsonMatch {
	out := jsonMatch{Methods: m.Methods, Host: m.Host, Path: m.Path, Domain: m.Domain}
	for _, c := range m.Headers {
		if out.Headers == nil {
			out.Headers = make(map[string][]string, len(m.Headers))
		}
		out.Headers[c.Source.Name] = c.Values
	}
	for _, entry := range m.Descriptor {
		out.Descriptor = append(out.Descriptor, entry.String())
	}
	return out
}

func keyJSON(key clientkey.Key) []string {
	var list []string
	for _, source := range key.Sources() {
		list = append(list, source.String())
	}
	return list
}

// Reloaded is what is in force after a reload. A version differs whenever its files do.
type Reloaded struct {
	Policies int         `json:"policies"`
	Version  string      `json:"version"`
	Envoy    *EnvoyRules `json:"envoy,omitempty"` // nil: there are no files of Envoy's rules
}

// EnvoyRules are the rules of VELOCITY_ENVOY_CONFIG.
type EnvoyRules struct {
	Rules   int    `json:"rules"`
	Version string `json:"version"`
}

// WithReload serves POST /v1/reload, which calls reload; inForce describes what is in force. If reload fails, the answer is 422, and
// its member errors lists everything that is wrong. What a file with errors said before stays in force.
func WithReload(inForce func() Reloaded, reload func() error) Option {
	return func(a *Server, token fiber.Handler) {
		a.http.App.Post("/v1/reload", token, func(c *fiber.Ctx) error {
			before := inForce()
			err := reload()
			if err == nil {
				now := inForce()
				a.audit(c, change{action: actionReload, before: before, after: now})
				return answerJSON(c, now)
			}
			reply.Problem(c.Context(), &problem.Problem{
				Status: fiber.StatusUnprocessableEntity,
				Detail: "files with errors are not reloaded: the earlier policies stay in force",
				Extra:  map[string]any{"errors": messages(err)},
			})
			return nil
		})
	}
}

// messages lists the texts of the errors that err joins, also of joined errors in them.
func messages(err error) []string {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	var list []string
	for _, e := range joined.Unwrap() {
		list = append(list, messages(e)...)
	}
	return list
}
