package app

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Inspect implements ports.Inspector.
func (r *RateLimiter) Inspect(ctx context.Context, id ports.ClientID) (ports.BucketReport, error) {
	found, err := r.identify(id)
	if err != nil {
		return ports.BucketReport{}, err
	}
	found.take.Op = domain.OpPeek
	result := ports.Take(ctx, r.store, found.take)
	if result.Err != nil {
		return ports.BucketReport{}, result.Err
	}
	report := ports.BucketReport{
		Policy: found.policy.Name, Source: found.source.String(), Store: result.Store, Now: result.Now,
		Limits: make([]ports.BucketLevel, len(found.take.Limits)),
	}
	for i, limit := range found.take.Limits {
		report.Limits[i] = ports.BucketLevel{Limit: limit, Bucket: result.Buckets[i]}
	}
	return report, nil
}

// Reset implements ports.Inspector. It resets this process's fallback bucket too.
func (r *RateLimiter) Reset(ctx context.Context, id ports.ClientID) error {
	found, err := r.identify(id)
	if err != nil {
		return err
	}
	found.take.Op = domain.OpReset
	if result := ports.Take(ctx, r.local, found.take); result.Err != nil {
		return result.Err
	}
	return ports.Take(ctx, r.store, found.take).Err
}

// identified is one bucket group.
type identified struct {
	policy *domain.Policy
	source domain.Key
	take   ports.TakeRequest
}

func (r *RateLimiter) identify(id ports.ClientID) (identified, error) {
	policy, err := r.named(id.Policy)
	if err != nil {
		return identified{}, err
	}
	key, stoodIn, err := sourceOf(policy, id.Source)
	if err != nil {
		return identified{}, err
	}
	var parts []domain.KeyPart
	if values, ok := domain.SplitListValue(id.Key, len(key)); ok {
		for i, value := range values {
			parts = append(parts, domain.KeyPart{Source: key[i], Value: key[i].Normalize(value)})
		}
	}
	global := key[0].Kind == domain.SourceGlobal
	switch {
	case global:
		parts = []domain.KeyPart{{Source: key[0]}}
	case parts == nil:
		return identified{}, &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must have the values of " + key.String() + " with & between",
		}
	case id.Key == "":
		return identified{}, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must not be empty"}
	}
	groups := policy.Groups()
	if own := policy.OwnKey(); key.Equal(own) || stoodIn && mayLack(own) {
		if rules := policy.RulesFor(domain.ListValue(parts), !key.Equal(own)); rules.Groups != nil {
			groups = rules.Groups
		}
	}
	take := ports.TakeRequest{Key: domain.NewListKey(policy.Name, parts)}
	for i := range groups {
		if groups[i].Key.Equal(key) || stoodIn && mayLack(groups[i].Key) {
			take.Limits = append(take.Limits, groups[i].Limits...)
		}
	}
	return identified{policy, key, take}, nil
}

// sourceOf finds the key that a source names: the policy's own, one of its limits', or the address. stoodIn says that
// the address is that of a client which may have sent no other key, so that limits of those count by it, too.
func sourceOf(policy *domain.Policy, source string) (key domain.Key, stoodIn bool, err error) {
	own, address := policy.OwnKey(), domain.Key{{Kind: domain.SourceIP}}
	if source == "" {
		if !slices.ContainsFunc(policy.Groups(), func(g domain.Group) bool { return g.Own }) {
			return policy.Groups()[0].Key, false, nil // no limit counts by the policy's own
		}
		return own, false, nil
	}
	named, err := domain.ParseKey(source)
	known, keys := []string{}, []domain.Key{}
	for _, group := range policy.Groups() {
		known, keys = append(known, group.Key.String()), append(keys, group.Key)
		stoodIn = stoodIn || mayLack(group.Key)
	}
	if stoodIn && !slices.Contains(known, address.String()) {
		known, keys = append(known, address.String()), append(keys, address)
	}
	if err == nil && slices.ContainsFunc(keys, named.Equal) {
		return domain.Key(named.Sources()), stoodIn && named.Equal(address), nil
	}
	return nil, false, &domain.FieldError{
		Kind: domain.ErrInvalidRequest, Field: "source", Value: strconv.Quote(source),
		Reason: "must be one of the policy's keys: " + strings.Join(known, "; "),
	}
}

// mayLack reports whether a request may come without this key, so that the address stands in.
func mayLack(key domain.Key) bool {
	if len(key) != 1 {
		return false
	}
	switch key[0].Kind {
	case domain.SourceHeader, domain.SourceCookie, domain.SourceQuery:
		return true
	default:
		return false
	}
}
