package policyfile

import (
	"cmp"
	"errors"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
)

// ParseLimit reads one limit of an override, as a policy file has it on one line: "name: daily, quota: 50000/month". The braces
// around it may be left out. The error joins a [domain.FieldError] for each wrong field.
func ParseLimit(text string) (limitspec.Spec, error) {
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		text = "{ " + text + " }"
	}
	body, errs := parse([]byte(text))
	if len(errs) > 0 {
		return limitspec.Spec{}, asFields(errs)
	}
	var r reader
	root := place{node: body}
	root.at.Line, root.at.Column = 1, 1
	written, _ := r.limit(root, overrideLimitFields)
	if _, named := written.given["name"]; !named && len(r.errs) == 0 {
		root.field = "name"
		r.bad(root, "", "is missing: the name of the limit that is overridden")
	}
	if len(r.errs) > 0 {
		return limitspec.Spec{}, asFields(r.errs.sorted())
	}
	return written.Spec, nil
}

// asFields returns the errors without their places.
func asFields(errs Errors) error {
	fields := make([]error, len(errs))
	for i, e := range errs {
		fields[i] = &domain.FieldError{Kind: domain.ErrInvalidLimit, Field: cmp.Or(e.Field, "limit"), Value: e.Value, Reason: e.Reason}
	}
	return errors.Join(fields...)
}
