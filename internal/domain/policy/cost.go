package policy

import (
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
)

// MaxCostSources is how many sources an estimate can have, and how many numbers an actual cost can be the sum of.
const MaxCostSources = 16

// MaxCostBody is the size, in bytes, of the largest body of a request in which an estimate is looked for.
const MaxCostBody = jsonpointer.MaxText

// Cost says what a request costs. The zero value is one token.
type Cost struct {
	// Fixed number of tokens; 0 is 1.
	Fixed domain.Tokens
	// Header, in lower case, names the header that holds the cost, at least 1. It is read only in requests from a
	// trusted proxy. Every other request, and one without the header, costs Fixed.
	Header string
	// Estimate, if it is not empty, replaces Fixed and Header, which must be zero: the first of these sources that is there says
	// what is taken. If none is there, that is one token.
	Estimate []CostSource
	// Actual says where the answer reports what the request has cost. The difference to what was taken is charged or refunded when
	// the answer has ended. The zero value: what was taken is the cost.
	Actual Actual
	// Missing is what a request costs whose answer is whole and successful, and does not report it. Nil: what was taken.
	Missing *domain.Tokens
	// Failed is what a request costs whose answer is not successful, and does not report it.
	Failed domain.Tokens
	// IncludeUsage asks the upstream to report usage in streams, as the API of OpenAI does if the request says
	// stream_options.include_usage. It needs Actual.Usage.
	IncludeUsage bool
}

// CostSource is where an estimate is: exactly one of its fields is set. A value that is no whole number from 1 is as one that is
// missing.
type CostSource struct {
	// Number of tokens. It is always there, so it must be the last source.
	Number domain.Tokens
	// Header is the name of a header, in lower case. It is read only in requests from a trusted proxy.
	Header string
	// Pointer is a place in the request's body, if that is JSON of at most MaxCostBody.
	Pointer jsonpointer.Pointer
}

// Actual says where an answer reports what its request has cost: at most one field is set.
type Actual struct {
	// Usage is the total that the APIs of OpenAI, Anthropic and Gemini report, and those that are compatible with them.
	Usage bool
	// Header of the answer, in lower case. A trailer of this name counts if the header does not have it.
	Header string
	// Pointers are places in the answer, whose numbers are added up.
	Pointers []jsonpointer.Pointer
}

// IsZero reports whether the cost is known before the request.
func (a *Actual) IsZero() bool { return !a.Usage && a.Header == "" && len(a.Pointers) == 0 }

// Tokens is the cost of a request in which no header and no body names another one.
func (c *Cost) Tokens() domain.Tokens {
	if n := len(c.Estimate); n > 0 {
		return max(c.Estimate[n-1].Number, 1)
	}
	return max(c.Fixed, 1)
}

// Usage says whether an answer reported what its request has cost. The zero value is UsageNone.
type Usage uint8

// What an answer reported.
const (
	UsageNone    Usage = iota // nothing so far
	UsageFound                // a number of tokens
	UsageInvalid              // something that is no number of tokens from 0 to domain.MaxCost, or that is too large to be read
)

// Ending is what is known of an answer when it has ended.
type Ending struct {
	// Status of the answer, be it the upstream's or, if that failed, our own.
	Status int
	// Whole says that the answer did not break off. One without an upstream's status, such as our own 502, is whole.
	Whole bool
	// Usage says whether the answer reported the cost, and Tokens is the last that it reported, with UsageFound.
	Usage  Usage
	Tokens domain.Tokens
}

// Settled is what a request has cost in the end, given what was taken before it. missing reports that the answer should have
// reported the cost, and did not.
func (c *Cost) Settled(estimate domain.Tokens, e Ending) (actual domain.Tokens, missing bool) {
	reported := e.Usage == UsageFound && e.Tokens >= 0 && e.Tokens <= domain.MaxCost
	switch {
	case !e.Whole && reported:
		return max(estimate, e.Tokens), false // leaving early is no discount
	case !e.Whole:
		return estimate, false
	case reported:
		return e.Tokens, false
	case e.Usage == UsageNone && e.Status/100 != 2:
		return c.Failed, false
	case c.Missing == nil:
		return estimate, true
	}
	return *c.Missing, true
}

// check returns what is wrong with the cost, but for what depends on the limits. The fields of the errors are those of a policy
// file: "cost.estimate[1]".
func (c *Cost) check(forEnvoy bool) (errs []error) {
	bad := func(field, value, reason string) { errs = append(errs, invalid(field, value, reason)) }
	if c.Fixed < 0 || c.Fixed > domain.MaxCost {
		bad("cost", number(c.Fixed), tokensRule(1))
	}
	if c.Header != "" && !validHeader(c.Header) {
		bad("cost", strconv.Quote(c.Header), headerRule)
	}
	if n := len(c.Estimate); n > MaxCostSources {
		bad("cost.estimate", strconv.Itoa(n), "there must be at most "+strconv.Itoa(MaxCostSources)+" sources")
	} else if n > 0 && (c.Fixed != 0 || c.Header != "") {
		bad("cost.estimate", "", "replaces a fixed cost and a header: have one of them")
	}
	for i := range c.Estimate {
		if value, reason := c.Estimate[i].check(i == len(c.Estimate)-1, forEnvoy); reason != "" {
			bad("cost.estimate["+strconv.Itoa(i)+"]", value, reason)
		}
	}
	return append(errs, c.checkActual(forEnvoy)...)
}

func (s *CostSource) check(last, forEnvoy bool) (value, reason string) {
	pointer := !s.Pointer.IsZero()
	switch {
	case s.Number < 0 || s.Number > domain.MaxCost:
		return number(s.Number), tokensRule(1)
	case s.Number != 0 && (s.Header != "" || pointer) || s.Header != "" && pointer, s.Number == 0 && s.Header == "" && !pointer:
		return "", "must be one of a number, a header and a pointer"
	case s.Number != 0 && !last:
		return number(s.Number), "must be the last of the list: a number is always there, so what follows never counts"
	case s.Header != "" && !validHeader(s.Header):
		return strconv.Quote(s.Header), headerRule
	case s.Number == 0 && forEnvoy:
		return "", "must be a number: Envoy sends neither headers nor a body"
	}
	return "", ""
}

func (c *Cost) checkActual(forEnvoy bool) (errs []error) {
	bad := func(field, value, reason string) { errs = append(errs, invalid(field, value, reason)) }
	a, known := &c.Actual, c.Actual.IsZero()
	switch n := len(a.Pointers); {
	case a.Usage && (a.Header != "" || n > 0) || a.Header != "" && n > 0:
		bad("cost.actual", "", "must be one of usage, a header and pointers")
	case n > MaxCostSources:
		bad("cost.actual", strconv.Itoa(n), "there must be at most "+strconv.Itoa(MaxCostSources)+" pointers")
	case a.Header != "" && !validHeader(a.Header):
		bad("cost.actual", strconv.Quote(a.Header), headerRule)
	case !known && forEnvoy:
		bad("cost.actual", "", "cannot be had under a policy for Envoy: Envoy does not say what was answered")
	}
	for i := range a.Pointers {
		if a.Pointers[i].IsZero() {
			bad("cost.actual", "", "has an empty pointer")
		}
	}
	if c.Missing != nil && (*c.Missing < 0 || *c.Missing > domain.MaxCost) {
		bad("cost.missing", number(*c.Missing), tokensRule(0))
	} else if c.Missing != nil && known {
		bad("cost.missing", "", CostNeedsActual)
	}
	if c.Failed < 0 || c.Failed > domain.MaxCost {
		bad("cost.failed", number(c.Failed), tokensRule(0))
	} else if c.Failed > 0 && known {
		bad("cost.failed", "", CostNeedsActual)
	}
	if c.IncludeUsage && !a.Usage {
		bad("cost.include_usage", "true", "needs actual: usage")
	}
	return errs
}

// CostNeedsActual is why Missing and Failed are refused without Actual.
const CostNeedsActual = "needs actual: without it, a request costs what is taken before it"

const headerRule = "must be a header's name in lower case, of letters, digits and hyphens"

func tokensRule(least domain.Tokens) string {
	return "must be from " + number(least) + " to " + number(domain.MaxCost)
}

func number(n domain.Tokens) string { return strconv.FormatInt(int64(n), 10) }

func validHeader(name string) bool {
	return clientkey.Source{Kind: clientkey.SourceHeader, Name: name}.Valid()
}

// String describes the cost for people: "5", "header:x-cost, else 1", "estimate 1000; actual usage; missing the
// estimate, failed 0".
func (c *Cost) String() string {
	text := c.takenText()
	if c.Actual.IsZero() {
		return text
	}
	text = "estimate " + text + "; actual " + strings.Join(c.Actual.Sources(), " + ")
	missing := "the estimate"
	if c.Missing != nil {
		missing = number(*c.Missing)
	}
	text += "; missing " + missing + ", failed " + number(c.Failed)
	if c.IncludeUsage {
		text += ", asks streams for usage"
	}
	return text
}

// takenText is what is taken before the request.
func (c *Cost) takenText() string {
	sources := c.Estimate
	if len(sources) == 0 && c.Header != "" {
		sources = []CostSource{{Header: c.Header}}
	}
	var texts []string
	for i := range sources {
		if sources[i].Number == 0 {
			texts = append(texts, sources[i].String())
		}
	}
	return strings.Join(append(texts, number(c.Tokens())), ", else ")
}

// String is the source as policy files write it: "1000", "header:x-tokens", "json:/max_tokens".
func (s *CostSource) String() string {
	switch {
	case s.Number != 0:
		return number(s.Number)
	case s.Header != "":
		return "header:" + s.Header
	}
	return "json:" + s.Pointer.String()
}

// Sources are the sources as policy files write them; several are added up. None for the zero value.
func (a *Actual) Sources() (sources []string) {
	if a.Usage {
		sources = append(sources, "usage")
	}
	if a.Header != "" {
		sources = append(sources, "header:"+a.Header)
	}
	for i := range a.Pointers {
		sources = append(sources, "json:"+a.Pointers[i].String())
	}
	return sources
}
