package app

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// keyValues finds the values of a policy's keys in a request. The values may be memory of the request, which is valid only
// as long as the request: see [cloneIfNeeded].
type keyValues struct {
	req       *policy.Request
	policyKey clientkey.Key
	match     *policy.Match
	// given[:n] are the values that the caller gave itself, as Request.Key.
	given [clientkey.MaxParts]clientkey.Part
	n     int
	// address is the client's. If the caller gave an address as the key, it is the address for the other keys too.
	address netip.Addr
	// absent reports that the last error of parts says that a value is missing, and not that one is wrong.
	absent bool
	// ignored is the name of a header that a condition asked for, but that is not believed; see facts.
	ignored string
}

// start begins with a request, and reads the values that the caller gave itself.
func (v *keyValues) start(req *policy.Request, p *policy.Policy) error {
	v.req, v.policyKey, v.match, v.n, v.address = req, p.EffectiveKey(), &p.Match, 0, req.Client
	if req.Key == "" {
		return nil
	}
	if len(v.policyKey) == 1 {
		v.give(v.policyKey[0], req.Key)
		return nil
	}
	values, ok := clientkey.SplitListValue(req.Key, len(v.policyKey))
	if !ok {
		return &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "key",
			Reason: "must have the " + strconv.Itoa(len(v.policyKey)) + " values of " + v.policyKey.String() + " with & between, and in them %26 for & and %25 for %",
		}
	}
	for i, value := range values {
		if value != "" {
			v.give(v.policyKey[i], value)
		}
	}
	return nil
}

func (v *keyValues) give(source clientkey.Source, value string) {
	if source.IsAddress() && !v.address.IsValid() {
		v.address, _ = netip.ParseAddr(value)
	}
	if source.Kind != clientkey.SourceGlobal {
		v.given[v.n] = clientkey.NewPart(source, source.Normalize(value))
		v.n++
	}
}

// parts appends the parts of a key to dst. Where the request has no value, the client's address takes its place, so a
// client gets no new bucket by leaving a value out; usedFallback reports that, also beside the error that the address is not known.
func (v *keyValues) parts(dst []clientkey.Part, key clientkey.Key) (parts []clientkey.Part, usedFallback bool, err error) {
	v.absent = false
	for _, source := range key {
		part, fallback, err := v.part(source)
		usedFallback = usedFallback || fallback
		if err != nil {
			return dst, usedFallback, err
		}
		dst = append(dst, part)
	}
	return dst, usedFallback, nil
}

func (v *keyValues) part(source clientkey.Source) (part clientkey.Part, usedFallback bool, err error) {
	for i := range v.n {
		if v.given[i].Source.Same(source) {
			return v.given[i], false, nil
		}
	}
	switch {
	case source.Kind == clientkey.SourceGlobal:
		return clientkey.Part{Source: source}, false, nil
	case source.Kind == clientkey.SourceDescriptor && len(v.req.Descriptor) > 0:
		return clientkey.Part{Source: source, Value: v.match.DescriptorValue(v.req.Descriptor)}, false, nil
	case source.IsAddress():
		part = clientkey.Part{Source: source, Value: source.Address(v.address)}
	default:
		if v.req.Lookup != nil && source.Kind != clientkey.SourceDescriptor {
			value, err := v.req.Lookup(source.Public())
			switch {
			case errors.Is(err, domain.ErrNoValue):
				return part, false, v.missing(source)
			case err != nil:
				return part, false, err
			case value != "":
				return clientkey.NewPart(source, value), false, nil
			}
		}
		part, usedFallback = clientkey.Part{Value: clientkey.ClientAddress(v.address)}, true
	}
	if part.Value == "" {
		return part, usedFallback, v.missing(source)
	}
	return part, usedFallback, nil
}

func (v *keyValues) missing(source clientkey.Source) error {
	v.absent = true
	field := source.String()
	if source.IsAddress() {
		field = "ip"
	}
	if len(v.policyKey) == 1 && v.policyKey[0].Same(source) {
		field = "key"
	}
	return &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: field, Reason: "must not be empty"}
}

// rawClient is the client as patterns are compared with it, given as it is listed and as the parts of the key.
func rawClient(listed string, parts []clientkey.Part) string {
	for i := range parts {
		if parts[i].Source.Secret() {
			raw, _ := clientkey.RawListValue(parts) // a request has every value
			return raw
		}
	}
	return listed
}

// cloneIfNeeded returns value in memory that outlives the request. If key ends with value, as nearly every key does, it
// returns that part of key.
func cloneIfNeeded(value string, key clientkey.BucketKey) string {
	if strings.HasSuffix(string(key), value) {
		return string(key)[len(key)-len(value):]
	}
	return strings.Clone(value)
}
