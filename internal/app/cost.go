package app

import (
	"errors"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func checkCost(op domain.Op, cost domain.Tokens) error {
	if op == domain.OpPeek || op == domain.OpReset {
		return nil
	}
	return op.CheckCost(cost)
}

// costOf returns the cost that the request names or, if it leaves the cost to the policy, the policy's. A cost in a header
// counts only if a trusted proxy sent the request; d notes one that does not.
func costOf(req *policy.Request, p *policy.Policy, d *decision.Decision) (domain.Tokens, error) {
	estimates := len(p.Cost.Estimate) > 0
	switch {
	case estimates && (req.PolicyCost || req.Estimated):
		return estimateOf(req, p.Cost.Estimate, d)
	case !req.PolicyCost:
		return req.Cost, checkCost(req.Op, req.Cost)
	}
	header := p.Cost.Header
	if header == "" {
		return p.Cost.Tokens(), nil
	}
	text, err := costHeader(req, header, d)
	switch {
	case err != nil:
		return 0, err
	case text == "":
		return p.Cost.Tokens(), nil
	}
	cost, err := strconv.ParseInt(text, 10, 64)
	if err != nil && strings.Trim(text, "0123456789") != "" {
		return 0, &domain.FieldError{Kind: domain.ErrMalformedRequest, Field: header, Reason: "must be the cost, a whole number"}
	}
	if err != nil || cost < 1 || domain.Tokens(cost) > domain.MaxCost {
		return 0, &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: header,
			Reason: "must be a cost from 1 to " + strconv.FormatInt(int64(domain.MaxCost), 10),
		}
	}
	return domain.Tokens(cost), nil
}

// costHeader returns the value of a header that says what the request costs; "" if it is not there, or not believed.
func costHeader(req *policy.Request, name string, d *decision.Decision) (string, error) {
	if req.Lookup == nil {
		return "", nil
	}
	text, err := req.Lookup(clientkey.Source{Kind: clientkey.SourceHeader, Name: name})
	switch {
	case errors.Is(err, domain.ErrNoValue):
		return "", nil
	case !req.Trusted:
		if text != "" || err != nil {
			d.IgnoredHeader = name
		}
		return "", nil
	}
	return text, err
}

// estimateOf returns what the first source says that is there, or one token.
func estimateOf(req *policy.Request, sources []policy.CostSource, d *decision.Decision) (domain.Tokens, error) {
	var inBody []int64 // by source
	for i := range sources {
		s := &sources[i]
		if s.Number != 0 {
			return s.Number, nil
		}
		var n int64
		var err error
		if s.Header != "" {
			n, err = estimateInHeader(req, s.Header, d)
		} else {
			if inBody == nil {
				inBody, err = estimatesInBody(req, sources)
			}
			n = inBody[i]
		}
		switch {
		case err != nil:
			return 0, err
		case n > int64(domain.MaxCost):
			return 0, &domain.FieldError{
				Kind: domain.ErrInvalidRequest, Field: strings.TrimPrefix(s.String(), "header:"),
				Reason: "must be a cost of at most " + strconv.FormatInt(int64(domain.MaxCost), 10),
			}
		case n > 0:
			return domain.Tokens(n), nil
		}
	}
	return 1, nil
}

// estimateInHeader returns the whole number of at least 1 in a header, or 0. A number that is too large is the largest.
func estimateInHeader(req *policy.Request, header string, d *decision.Decision) (int64, error) {
	text, err := costHeader(req, header, d)
	if err != nil || strings.Trim(text, "0123456789") != "" {
		return 0, err
	}
	n, _ := strconv.ParseInt(text, 10, 64) // "" is 0
	return n, nil
}

// estimatesInBody returns the whole number of at least 1 at the pointer of each source, or 0.
func estimatesInBody(req *policy.Request, sources []policy.CostSource) ([]int64, error) {
	var body []byte
	var err error
	if req.Body != nil {
		body, err = req.Body()
	}
	pointers := make([]jsonpointer.Pointer, len(sources))
	for i := range sources {
		pointers[i] = sources[i].Pointer
	}
	return jsonpointer.FindNumbers(body, pointers...), err
}
