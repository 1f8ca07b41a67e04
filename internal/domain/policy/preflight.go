package policy

import (
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// methodOptions is the method of a preflight.
const methodOptions = "OPTIONS"

// IsPreflight reports whether the request is a preflight of CORS: a browser asks whether a page of another origin may send a request
// (the Fetch standard, section "CORS-preflight fetch"). A browser sends no cookies with it, and none of the headers that the page would
// send. A request that has one of a preflight's headers twice is none.
func (r *Request) IsPreflight() bool {
	if r.Method != methodOptions || r.Lookup == nil {
		return false
	}
	for _, name := range [...]string{"origin", "access-control-request-method"} {
		if value, err := r.Lookup(clientkey.Source{Kind: clientkey.SourceHeader, Name: name}); err != nil || value == "" {
			return false
		}
	}
	return true
}

// checkAnswers refuses SkipPreflight and Denied where they would have no effect.
func (p *Policy) checkAnswers() (errs []error) {
	switch {
	case !p.SkipPreflight:
	case p.Match.ForEnvoy():
		errs = append(errs, invalid("skip_preflight", "true", "has no effect: what Envoy asks about has no method"))
	case len(p.Match.Methods) > 0 && !slices.Contains(p.Match.Methods, methodOptions):
		errs = append(errs, invalid("skip_preflight", "true", "has no effect: match.methods has no OPTIONS, the method of a preflight"))
	}
	if p.Denied != nil && p.Match.ForEnvoy() {
		errs = append(errs, invalid("denied", "", "has no effect: Envoy answers its clients itself"))
	}
	return errs
}
