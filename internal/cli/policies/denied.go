package policies

import (
	"cmp"
	"net/http"
	"strconv"

	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// deniedText says how a policy answers denials: "a denial is answered with 503 and a body of its own, text/html". It is empty if they
// are answered as usual.
func deniedText(p *policy.Policy) string {
	switch own := p.Denied; {
	case own == nil:
		return ""
	case p.Mode == policy.ModeShadow:
		return "denied has no effect in shadow mode"
	case own.HasBody():
		return "a denial is answered with " + strconv.Itoa(cmp.Or(own.Status(), http.StatusTooManyRequests)) + " and a body of its own, " + own.ContentType()
	default:
		return "a denial is answered with " + strconv.Itoa(own.Status())
	}
}
