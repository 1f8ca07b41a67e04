package settings

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/secretfile"
	"github.com/velocity-limiter/velocity/internal/violation"
)

// Policy is the one policy that applies to every request, or the file that defines several.
type Policy struct {
	File           string             `envconfig:"POLICY_FILE" desc:"policies in YAML, reloaded when the file changes and on SIGHUP; instead of RATE, CAPACITY and CLIENT_KEY"`
	Rate           string             `envconfig:"RATE" default:"5/s" desc:"refill of each client's bucket, <tokens>/<duration>: 5/s, 100/m, 1000/h, 3/250ms; a number per day is a quota, of a policy file"`
	Capacity       int64              `envconfig:"CAPACITY" default:"10" desc:"tokens that a full bucket holds, and so the largest burst"`
	ClientKey      string             `envconfig:"CLIENT_KEY" default:"ip" desc:"what identifies a client: ip, ip/48, header:NAME, cookie:NAME, query:NAME, global, or several with commas between"`
	KeySecret      secret.Secret      `envconfig:"KEY_SECRET" desc:"secret of the HMACs that take the place of keys with secret: true in a policy file, at least 16 bytes; another secret renames every such key"`
	OnStoreFailure policy.FailureMode `envconfig:"ON_STORE_FAILURE" default:"open" desc:"while the store fails: open allows, closed denies with 503, local decides in this process alone; a policy of the file may say otherwise"`
}

// Single returns the policy that the settings describe, which is used if there is no file. The error reports every
// violation under the short names of the settings.
func (c Policy) Single() (policy.Policy, error) {
	p := policy.Policy{Name: policy.DefaultName, OnStoreFailure: c.OnStoreFailure}
	var err error
	p.Key, err = clientkey.Parse(c.ClientKey)
	errs := []error{err}
	if p.Key.Equal(clientkey.Key{{Kind: clientkey.SourceDescriptor}}) {
		errs = append(errs, &domain.FieldError{
			Kind: domain.ErrInvalidPolicy, Field: "key", Value: strconv.Quote(c.ClientKey), Reason: "needs a policy file: requests of HTTP have no descriptor",
		})
	}
	if slices.ContainsFunc(p.Key, func(s clientkey.Source) bool { return s.Kind == clientkey.SourceClaim }) {
		errs = append(errs, &domain.FieldError{
			Kind: domain.ErrInvalidPolicy, Field: "key", Value: strconv.Quote(c.ClientKey),
			Reason: "needs a policy file, whose section jwt says which tokens are believed",
		})
	}
	refill, per, err := domain.ParseRate(c.Rate)
	if err != nil {
		errs = append(errs, err)
		refill, per = 1, time.Second // a valid value, so that the capacity is checked as well
	}
	limit, err := domain.NewBucket(p.Name, domain.Tokens(c.Capacity), refill, per)
	if err != nil {
		errs = append(errs, err)
		limit, _ = domain.NewBucket(p.Name, 1, 1, time.Second) // a valid limit, so that the rest of the policy is checked
	}
	p.Limits = []domain.Limit{limit}
	errs = append(errs, p.Validate())
	return p, c.settingNames(errors.Join(errs...))
}

// validate reports settings that would have no effect because a policy file is set.
func (c Policy) validate() error {
	var v violation.List
	_, err := c.KeyHasher()
	if c.File == "" {
		if c.KeySecret != "" {
			v.Add("KEY_SECRET", "", "has no effect without {POLICY_FILE}: a key is secret if the file says secret: true")
		}
		_, wrong := c.Single()
		return errors.Join(err, v.Err(), wrong)
	}
	for _, name := range []string{"RATE", "CAPACITY", "CLIENT_KEY"} {
		if value := os.Getenv(prefix + name); value != "" {
			v.Add(name, strconv.Quote(value), "has no effect with {POLICY_FILE}: write it into the file")
		}
	}
	if !c.OnStoreFailure.Valid() {
		v.Add("ON_STORE_FAILURE", strconv.Quote(string(c.OnStoreFailure)), "must be open, closed or local")
	}
	return errors.Join(err, v.Err())
}

// KeyHasher returns what replaces the values of secret keys, or nil if there is no secret.
func (c Policy) KeyHasher() (*clientkey.Hasher, error) {
	if c.KeySecret == "" {
		return nil, nil
	}
	hasher, err := clientkey.NewHasher([]byte(c.KeySecret))
	if wrong, ok := errors.AsType[*domain.FieldError](err); ok {
		return nil, &violation.Error{Setting: "KEY_SECRET", Value: wrong.Value, Reason: wrong.Reason}
	}
	return hasher, err
}

// KeyHasher is [Policy.KeyHasher] of the environment, with the file that VELOCITY_KEY_SECRET_FILE names, for programs that read no
// other setting.
func KeyHasher() (*clientkey.Hasher, error) {
	var cfg Policy
	var files map[string]*secretfile.File
	for _, s := range settingsOf(&cfg) {
		if s.name != prefix+"KEY_SECRET" {
			continue
		}
		if err := s.decode(); err != nil {
			return nil, err
		}
		var err error
		if files, err = readSecrets([]variable{s}); err != nil {
			return nil, err
		}
	}
	hasher, err := cfg.KeyHasher()
	return hasher, inFiles(violation.Rename(err, func(setting string) string { return prefix + setting }), files)
}

// settingNames replaces the names of a policy's fields in err by the names of the settings that they come from, and the value of
// a rate by the text of the setting.
func (c Policy) settingNames(err error) error {
	names := map[string]string{
		"rate": "RATE", "capacity": "CAPACITY", "key": "CLIENT_KEY", "on_store_failure": "ON_STORE_FAILURE",
	}
	var errs []error
	for _, e := range Violations(err) {
		if field, ok := errors.AsType[*domain.FieldError](e); ok && names[field.Field] != "" {
			if field.Field == "rate" {
				field.Value = strconv.Quote(c.Rate)
			}
			e = &violation.Error{Setting: names[field.Field], Value: field.Value, Reason: field.Reason}
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
