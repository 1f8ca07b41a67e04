package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// policyConfig is the single policy that applies to every request, or the file that has others.
type policyConfig struct {
	File           string             `envconfig:"POLICY_FILE" desc:"policies in YAML, reloaded when the file changes and on SIGHUP; instead of RATE, CAPACITY and CLIENT_KEY"`
	Rate           string             `envconfig:"RATE" default:"5/s" desc:"refill of each client's bucket, <tokens>/<duration>: 5/s, 100/m, 1000/h, 10000/24h, 3/250ms"`
	Capacity       int64              `envconfig:"CAPACITY" default:"10" desc:"tokens that a full bucket holds, and so the largest burst"`
	ClientKey      string             `envconfig:"CLIENT_KEY" default:"ip" desc:"what tells clients apart: ip, ip/48, header:NAME, cookie:NAME, query:NAME, global, or several with commas between"`
	OnStoreFailure domain.FailureMode `envconfig:"ON_STORE_FAILURE" default:"open" desc:"while the store fails: open allows, closed denies with 503, local decides in this process alone; a policy of the file may say otherwise"`
}

// policy works the policy out. The error reports every violation, under the names of the settings.
func (c policyConfig) policy() (domain.Policy, error) {
	p := domain.Policy{Name: domain.DefaultPolicyName, OnStoreFailure: c.OnStoreFailure}
	var errs []error
	var err error
	if p.Key, err = domain.ParseKey(c.ClientKey); err != nil {
		errs = append(errs, err)
	}
	if p.Key.Equal(domain.Key{{Kind: domain.SourceDescriptor}}) {
		errs = append(errs, &domain.FieldError{
			Kind: domain.ErrInvalidPolicy, Field: "key", Value: strconv.Quote(c.ClientKey), Reason: "needs a policy file: requests of HTTP have no descriptor",
		})
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

// validate looks at what is used: the file has the place of the other settings, which would have no effect.
func (c policyConfig) validate() error {
	if c.File == "" {
		_, err := c.policy()
		return err
	}
	var errs []error
	for _, name := range []string{"RATE", "CAPACITY", "CLIENT_KEY"} {
		if value := os.Getenv(prefix + name); value != "" {
			errs = append(errs, fmt.Errorf("%s%s: %q: has no effect with %sPOLICY_FILE: write it into the file", prefix, name, value, prefix))
		}
	}
	if !c.OnStoreFailure.Valid() {
		errs = append(errs, fmt.Errorf("%sON_STORE_FAILURE: %q: must be open, closed or local", prefix, string(c.OnStoreFailure)))
	}
	return errors.Join(errs...)
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
