package decision

import (
	"fmt"
	"slices"
	"strconv"
)

// HeaderFamilies says which families of rate limit headers answers have. The zero value is AllHeaders. Retry-After, X-RateLimit-Store
// and X-RateLimit-Shadow are in no family: answers always have them.
type HeaderFamilies uint8

// What HeaderFamilies leave out.
const (
	AllHeaders   HeaderFamilies = 0
	NoXRateLimit HeaderFamilies = 1 << (iota - 1) // X-RateLimit-Limit, -Remaining and -Retry-After
	NoRateLimit                                   // RateLimit and RateLimit-Policy
)

// The names of the families.
const (
	familyXRateLimit = "x-ratelimit"
	familyRateLimit  = "ratelimit"
)

// ParseHeaderFamilies reads the names of the families that answers shall have: "x-ratelimit" and "ratelimit". No names are all.
func ParseHeaderFamilies(names []string) (HeaderFamilies, error) {
	if len(names) == 0 {
		return AllHeaders, nil
	}
	f := NoXRateLimit | NoRateLimit
	for i, name := range names {
		switch {
		case slices.Contains(names[:i], name):
			return 0, fmt.Errorf("%s is there twice", strconv.Quote(name))
		case name == familyXRateLimit:
			f &^= NoXRateLimit
		case name == familyRateLimit:
			f &^= NoRateLimit
		default:
			return 0, fmt.Errorf("%s is not %s or %s", strconv.Quote(name), familyXRateLimit, familyRateLimit)
		}
	}
	return f, nil
}

// Names returns the names of all headers that [HeaderFamilies.Fields] may set.
func (f HeaderFamilies) Names() []string {
	var names []string
	if f&NoXRateLimit == 0 {
		names = append(names, "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Retry-After")
	}
	if f&NoRateLimit == 0 {
		names = append(names, "RateLimit", "RateLimit-Policy")
	}
	return append(names, "X-RateLimit-Store", "X-RateLimit-Shadow", "Retry-After")
}
