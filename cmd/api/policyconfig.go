package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// policyConfig is the single policy that applies to every request.
type policyConfig struct {
	Rate           string             `envconfig:"RATE" default:"5/s" desc:"refill of each client's bucket, <tokens>/<duration>: 5/s, 100/m, 1000/h, 10000/24h, 3/250ms"`
	Capacity       int64              `envconfig:"CAPACITY" default:"10" desc:"tokens that a full bucket holds, and so the largest burst"`
	ClientKey      string             `envconfig:"CLIENT_KEY" default:"ip" desc:"what tells clients apart: ip or header:NAME"`
	OnStoreFailure domain.FailureMode `envconfig:"ON_STORE_FAILURE" default:"open" desc:"while the store fails: open allows, closed denies with 503, local decides in this process alone"`
}

// policy works the policy out. The error reports every violation, under the names of the settings.
func (c policyConfig) policy() (domain.Policy, error) {
	p := domain.Policy{Name: domain.DefaultPolicyName, OnStoreFailure: c.OnStoreFailure}
	var errs []error
	var err error
	if p.Key, err = domain.ParseKey(c.ClientKey); err != nil {
		errs = append(errs, err)
	}
	refill, per, err := domain.ParseRate(c.Rate)
	if err != nil {
		errs = append(errs, err)
		refill, per = 1, time.Second // so that the capacity is looked at all the same
	}
	limit, err := domain.NewLimit("", domain.Tokens(c.Capacity), refill, per)
	if err != nil {
		errs = append(errs, err)
		limit, _ = domain.NewLimit("", 1, 1, time.Second) // and the rest of the policy, too
	}
	p.Limits = []domain.Limit{limit}
	errs = append(errs, p.Validate())
	return p, settingNames(errors.Join(errs...))
}

// settingNames replaces the names of a policy's fields by those of the settings that they come from.
func settingNames(err error) error {
	if err == nil {
		return nil
	}
	names := map[string]string{
		"rate": "RATE", "capacity": "CAPACITY", "key": "CLIENT_KEY", "on_store_failure": "ON_STORE_FAILURE",
	}
	var errs []error
	for _, e := range violations(err) {
		var field *domain.FieldError
		if errors.As(e, &field) && names[field.Field] != "" {
			e = fmt.Errorf("%s%s: %s: %s", prefix, names[field.Field], field.Value, field.Reason)
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
