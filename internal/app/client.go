package app

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// clientFinder finds the values of a policy's keys in a request. They may be the request's own memory, and end with it:
// see keep.
type clientFinder struct {
	req *domain.Request
	// own is the policy's own key, and named are its parts where the caller has said them.
	own    domain.Key
	match  *domain.Match
	named  [domain.MaxKeyParts]domain.KeyPart
	nNamed int
	// address of the client; one that the caller names as the key counts for other keys, too.
	address netip.Addr
}

// start takes what the caller says itself.
func (f *clientFinder) start(req *domain.Request, policy *domain.Policy) error {
	f.req, f.own, f.match, f.nNamed, f.address = req, policy.OwnKey(), &policy.Match, 0, req.Client
	if req.Key == "" {
		return nil
	}
	if len(f.own) == 1 {
		f.name(f.own[0], req.Key)
		return nil
	}
	values, ok := domain.SplitListValue(req.Key, len(f.own))
	if !ok {
		return &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "key",
			Reason: "must have the " + strconv.Itoa(len(f.own)) + " values of " + f.own.String() + " with & between, and in them %26 for & and %25 for %",
		}
	}
	for i, value := range values {
		if value != "" {
			f.name(f.own[i], value)
		}
	}
	return nil
}

func (f *clientFinder) name(source domain.KeySource, value string) {
	if source.IsAddress() && !f.address.IsValid() {
		f.address, _ = netip.ParseAddr(value)
	}
	if source.Kind != domain.SourceGlobal {
		f.named[f.nNamed] = domain.KeyPart{Source: source, Value: source.Normalize(value)}
		f.nNamed++
	}
}

// parts appends the parts of a key to dst. A request that lacks one is counted by its client's address there, so that
// leaving a key out opens no bucket richer than the client's own; missing says so.
func (f *clientFinder) parts(dst []domain.KeyPart, key domain.Key) (parts []domain.KeyPart, missing bool, err error) {
	for _, source := range key {
		part, stoodIn, err := f.part(source)
		if err != nil {
			return dst, false, err
		}
		dst, missing = append(dst, part), missing || stoodIn
	}
	return dst, missing, nil
}

func (f *clientFinder) part(source domain.KeySource) (part domain.KeyPart, stoodIn bool, err error) {
	for i := range f.nNamed {
		if f.named[i].Source == source {
			return f.named[i], false, nil
		}
	}
	switch {
	case source.Kind == domain.SourceGlobal:
		return domain.KeyPart{Source: source}, false, nil
	case source.Kind == domain.SourceDescriptor && len(f.req.Descriptor) > 0:
		return domain.KeyPart{Source: source, Value: f.match.DescriptorValue(f.req.Descriptor)}, false, nil
	case source.IsAddress():
		part = domain.KeyPart{Source: source, Value: source.Address(f.address)}
	default:
		if f.req.Lookup != nil && source.Kind != domain.SourceDescriptor {
			value, err := f.req.Lookup(source)
			switch {
			case errors.Is(err, domain.ErrNoValue):
				return part, false, f.lacks(source)
			case err != nil || value != "":
				return domain.KeyPart{Source: source, Value: value}, false, err
			}
		}
		part, stoodIn = domain.KeyPart{Value: domain.ClientAddress(f.address)}, true
	}
	if part.Value == "" {
		return part, false, f.lacks(source)
	}
	return part, stoodIn, nil
}

func (f *clientFinder) lacks(source domain.KeySource) error {
	field := source.String()
	if source.IsAddress() {
		field = "ip"
	}
	if len(f.own) == 1 && f.own[0] == source {
		field = "key"
	}
	return &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: field, Reason: "must not be empty"}
}

// keep returns a value that outlives the request. A key that ends with it, as nearly all do, lends its memory.
func keep(value string, key domain.BucketKey) string {
	if strings.HasSuffix(string(key), value) {
		return string(key)[len(key)-len(value):]
	}
	return strings.Clone(value)
}
