// Package cors lets pages of other origins read answers of the data plane, by the Fetch standard's CORS protocol.
//
// A page may read an answer of our own if its origin is configured. Whether it may read an answer of the upstream is the upstream's
// decision, as is the answer to a preflight. Pages that send cookies or HTTP authentication can read no answer of our own: there is
// no Access-Control-Allow-Credentials.
package cors

import (
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/violation"
)

// Rules say which pages may read which headers. The zero value adds nothing to any answer. It is safe for concurrent use.
type Rules struct {
	origins []string
	any     bool
	exposed string
}

// anyOrigin stands for every origin, in the setting and in the header.
const anyOrigin = "*"

// ParseOrigins returns the rules by which pages of these origins may read the headers named by exposed. An origin is written as browsers
// write it: scheme://host or scheme://host:port. "*", alone, is every origin. The error joins a [violation.Error] for each that is wrong.
func ParseOrigins(origins, exposed []string) (Rules, error) {
	r := Rules{exposed: strings.Join(exposed, ", ")}
	var errs []error
	for _, origin := range origins {
		reason := checkOrigin(origin)
		if origin == anyOrigin && len(origins) > 1 {
			reason = "must stand alone: it is every origin"
		}
		if reason != "" {
			errs = append(errs, &violation.Error{Setting: "CORS_ORIGINS", Value: strconv.Quote(origin), Reason: reason})
			continue
		}
		r.any = r.any || origin == anyOrigin
		r.origins = append(r.origins, origin)
	}
	return r, errors.Join(errs...)
}

// checkOrigin returns why no browser sends this origin, or "".
func checkOrigin(s string) string {
	const rule = "must be scheme://host, perhaps with a port, as in https://app.example.com, or *"
	if s == anyOrigin {
		return ""
	}
	u, err := url.Parse(s)
	switch {
	case s == "null":
		return "must not be null: any page can have this origin"
	case err != nil || u.Scheme == "" || u.Hostname() == "" || s != u.Scheme+"://"+u.Host || strings.ContainsAny(s, " ,*"):
		return rule
	case strings.ToLower(s) != s:
		return "must be in lower case, as browsers send it"
	case u.Port() == "" && strings.HasSuffix(s, ":"), u.Scheme == "https" && u.Port() == "443", u.Scheme == "http" && u.Port() == "80":
		return "must be without this port, which browsers leave out"
	}
	return ""
}

// Fields calls add with each header that an answer gets, to be added to the values that it has already. origin is the Origin of the
// request, "" if it has none. ours says that the answer is our own, and not the upstream's.
func (r *Rules) Fields(origin string, ours bool, add func(name, value string)) {
	if len(r.origins) == 0 {
		return
	}
	add("Vary", "Origin") // an answer without the other fields must not be taken from a cache for a page
	allowed := origin
	switch {
	case origin == "":
		return
	case r.any:
		allowed = anyOrigin
	case !slices.Contains(r.origins, origin):
		return
	}
	if ours {
		add(AllowOrigin, allowed)
	}
	add("Access-Control-Expose-Headers", r.exposed)
}

// AllowOrigin is the header by which an answer says who may read it.
const AllowOrigin = "Access-Control-Allow-Origin"
