package app

import (
	"context"
	"strconv"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Inspect implements ports.Inspector.
func (r *RateLimiter) Inspect(ctx context.Context, id ports.ClientID) (ports.BucketReport, error) {
	policy, source, take, err := r.identify(id)
	if err != nil {
		return ports.BucketReport{}, err
	}
	take.Op = domain.OpPeek
	result := ports.Take(ctx, r.store, take)
	if result.Err != nil {
		return ports.BucketReport{}, result.Err
	}
	report := ports.BucketReport{
		Policy: policy.Name, Source: source.String(), Store: result.Store, Now: result.Now,
		Limits: make([]ports.BucketLevel, len(policy.Limits)),
	}
	for i := range policy.Limits {
		report.Limits[i] = ports.BucketLevel{Limit: policy.Limits[i], Bucket: result.Buckets[i]}
	}
	return report, nil
}

// Reset implements ports.Inspector. It resets this process's fallback bucket too.
func (r *RateLimiter) Reset(ctx context.Context, id ports.ClientID) error {
	_, _, take, err := r.identify(id)
	if err != nil {
		return err
	}
	take.Op = domain.OpReset
	if result := ports.Take(ctx, r.local, take); result.Err != nil {
		return result.Err
	}
	return ports.Take(ctx, r.store, take).Err
}

func (r *RateLimiter) identify(id ports.ClientID) (*domain.Policy, domain.KeySource, ports.TakeRequest, error) {
	fail := func(err error) (*domain.Policy, domain.KeySource, ports.TakeRequest, error) {
		return nil, domain.KeySource{}, ports.TakeRequest{}, err
	}
	policy, err := r.policies.Named(id.Policy)
	if err != nil {
		return fail(err)
	}
	source, address := policy.OwnKey()[0], domain.KeySource{Kind: domain.SourceIP}
	if id.Source != "" && id.Source != source.String() {
		if id.Source != address.String() {
			return fail(&domain.FieldError{
				Kind: domain.ErrInvalidRequest, Field: "source", Value: strconv.Quote(id.Source),
				Reason: "must be " + source.String() + ", the policy's own, or ip",
			})
		}
		source = address
	}
	if id.Key == "" {
		return fail(&domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must not be empty"})
	}
	value := id.Key
	if source == address {
		value = domain.NormalizeAddress(value)
	}
	return policy, source, ports.TakeRequest{Key: domain.NewBucketKey(policy.Name, source, value), Limits: policy.Limits}, nil
}
