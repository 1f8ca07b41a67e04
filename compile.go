package velocity

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/violation"
)

// settings maps the short names of settings, which the stores write into their errors, to fields of [Config].
var settings = map[string]string{
	"MEMORY_MAX_BUCKETS":    "MaxKeys",
	"REDIS_ADDRS":           "Redis",
	"REDIS_CLIENT":          "RedisClient",
	"REDIS_USERNAME":        "RedisUsername",
	"REDIS_PASSWORD":        "RedisPassword",
	"REDIS_DATABASE":        "RedisDatabase",
	"REDIS_CREDENTIALS":     "RedisCredentials",
	"REDIS_TLS":             "RedisTLS",
	"REDIS_TLS_CA_FILE":     "RedisCAFile",
	"REDIS_TLS_CONFIG":      "RedisTLSConfig",
	"REDIS_CLUSTER":         "RedisCluster",
	"REDIS_SENTINEL_MASTER": "RedisSentinel",
	"TAKE_TIMEOUT":          "TakeTimeout",
}

// named returns an error of a store with the names of [Config]'s fields.
func named(err error) error {
	return violation.Rename(err, func(setting string) string { return cmp.Or(settings[setting], setting) })
}

func (c *Config) inRedis() bool { return len(c.Redis) > 0 || c.RedisClient != nil }

// compile checks the whole configuration, and returns its parts as the stores and the core need them.
func (c *Config) compile() (ports.PolicySource, memstore.Config, redisstore.Config, error) {
	policies, err := c.policies()
	memory := memstore.DefaultConfig()
	memory.MaxBuckets = cmp.Or(c.MaxKeys, memory.MaxBuckets)
	redis := c.redis()
	errs := []error{err, named(memory.Validate()), c.checkStore()}
	if c.inRedis() {
		errs = append(errs, named(redis.Validate()))
	}
	return policies, memory, redis, errors.Join(errs...)
}

func (c *Config) redis() redisstore.Config {
	redis := redisstore.DefaultConfig(c.Redis...)
	redis.Client = c.RedisClient
	redis.Username, redis.Password, redis.Database = c.RedisUsername, secret.Secret(c.RedisPassword), c.RedisDatabase
	redis.Credentials = c.RedisCredentials
	redis.TLS, redis.TLSCAFile, redis.TLSConfig = c.RedisTLS, c.RedisCAFile, c.RedisTLSConfig
	redis.TakeTimeout = cmp.Or(c.TakeTimeout, redis.TakeTimeout)
	redis.SentinelMaster = c.RedisSentinel
	switch {
	case c.RedisSentinel != "":
		redis.Topology = redisstore.TopologySentinel
	case c.RedisCluster:
		redis.Topology = redisstore.TopologyCluster
	}
	return redis
}

// checkStore refuses fields that would have no effect: without Redis, a limit that was meant for all processes would be each
// process's own.
func (c *Config) checkStore() error {
	var v violation.List
	if c.inRedis() {
		if c.Now != nil {
			v.Add("Now", "", "has no effect in Redis, which has the clock")
		}
		if c.RedisCluster && c.RedisSentinel != "" {
			v.Add("RedisCluster", "true", "has no effect with RedisSentinel")
		}
		if c.RedisCredentials != nil && c.RedisUsername != "" {
			v.Add("RedisUsername", strconv.Quote(c.RedisUsername), "has no effect with RedisCredentials")
		}
		if c.RedisCredentials != nil && c.RedisPassword != "" {
			v.Add("RedisPassword", "", "has no effect with RedisCredentials")
		}
		return v.Err()
	}
	for _, field := range []struct {
		name  string
		isSet bool
	}{
		{"RedisUsername", c.RedisUsername != ""},
		{"RedisPassword", c.RedisPassword != ""},
		{"RedisDatabase", c.RedisDatabase != 0},
		{"RedisCredentials", c.RedisCredentials != nil},
		{"RedisTLS", c.RedisTLS},
		{"RedisCAFile", c.RedisCAFile != ""},
		{"RedisTLSConfig", c.RedisTLSConfig != nil},
		{"RedisCluster", c.RedisCluster},
		{"RedisSentinel", c.RedisSentinel != ""},
		{"TakeTimeout", c.TakeTimeout != 0},
	} {
		if field.isSet {
			v.Add(field.name, "", "has no effect without Redis")
		}
	}
	return v.Err()
}

// policies returns the compiled policies.
func (c *Config) policies() (ports.PolicySource, error) {
	list := c.Policies
	if len(c.Limits) > 0 {
		list = append([]Policy{{Name: DefaultPolicy, Limits: c.Limits}}, list...)
	}
	if len(list) == 0 {
		return nil, errors.New("there are no limits: set Limits or Policies")
	}
	var errs []error
	if c.Failure != "" && !policy.FailureMode(c.Failure).Valid() {
		errs = append(errs, &violation.Error{Setting: "Failure", Value: strconv.Quote(string(c.Failure)), Reason: "must be open, closed or local"})
	}
	compiled, names, texts := make([]policy.Policy, 0, len(list)), make(map[string]bool), make(map[string]bool)
	hasher, err := c.keyHasher()
	errs = append(errs, err)
	for _, p := range list {
		one, wrong := p.compile(c.Failure, hasher)
		if names[p.Name] {
			wrong = append(wrong, errors.New("there are two policies of this name"))
		}
		names[p.Name] = true
		for _, err := range wrong {
			err = fmt.Errorf("policy %q: %w", p.Name, err)
			if text := err.Error(); !texts[text] { // a limit without a name has the same wrong name as its policy
				texts[text] = true
				errs = append(errs, err)
			}
		}
		compiled = append(compiled, one)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	set, err := policy.NewSet(compiled)
	if err != nil {
		return nil, err
	}
	return source{set}, nil
}

// keyHasher returns what replaces the keys, or nil if they are no secrets.
func (c *Config) keyHasher() (*clientkey.Hasher, error) {
	if c.KeySecret == "" {
		return nil, nil
	}
	hasher, err := clientkey.NewHasher([]byte(c.KeySecret))
	if wrong, ok := errors.AsType[*domain.FieldError](err); ok {
		return nil, &violation.Error{Setting: "KeySecret", Value: wrong.Value, Reason: wrong.Reason}
	}
	return hasher, err
}

// compile returns the policy, with a failure mode to use if it has none of its own, and everything that is wrong with it. hasher
// replaces the keys; nil: they are no secrets.
func (p *Policy) compile(failure Failure, hasher *clientkey.Hasher) (policy.Policy, []error) {
	if !policy.FailureMode(failure).Valid() {
		failure = Open // empty, or wrong, which is reported once for all policies
	}
	out := policy.Policy{
		Name: p.Name, Key: clientkey.Key{{Kind: clientkey.SourceHeader, Name: "key", Hasher: hasher}},
		OnStoreFailure: policy.FailureMode(cmp.Or(p.Failure, failure)), MaxWait: p.MaxWait,
	}
	var errs []error
	names := make(map[string]bool)
	for i, l := range p.Limits {
		name := cmp.Or(l.Name, p.Name)
		limit, err := l.compile(name)
		wrong := fieldErrors(err, policyFields)
		if l.Name != "" {
			for k, err := range wrong {
				wrong[k] = fmt.Errorf("limit %q: %w", l.Name, err)
			}
		}
		if names[name] {
			wrong = append(wrong, &domain.FieldError{
				Kind: domain.ErrInvalidPolicy, Field: "Limits", Value: strconv.Quote(name),
				Reason: "there are two limits of this name: give them names with Named",
			})
		}
		names[name] = true
		if len(wrong) > 0 { // a limit that is right stands in for it, so that Validate checks the rest
			errs = append(errs, wrong...)
			limit, _ = domain.NewBucket("wrong-"+strconv.Itoa(i), 1, 1, time.Second)
		}
		out.Limits = append(out.Limits, limit)
	}
	return out, append(errs, fieldErrors(out.Validate(), policyFields)...)
}

// policyFields maps the fields of a policy file to those of [Policy] and [Limit]; periodFields those of a quota's period.
var (
	policyFields = map[string]string{
		"name": "Name", "limits": "Limits", "on_store_failure": "Failure", "capacity": "Capacity", "rate": "Refill and Per",
		"quota": "Quota", "cost": "Cost", "concurrent": "Concurrent", "lease": "Lease", "max_wait": "MaxWait",
	}
	periodFields = map[string]string{"quota": "Period", "zone": "Zone", "anchor": "Anchor"}
)

// fieldErrors returns the errors that err joins, with the fields renamed.
func fieldErrors(err error, names map[string]string) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range joined.Unwrap() {
			errs = append(errs, fieldErrors(e, names)...)
		}
		return errs
	}
	if field, ok := errors.AsType[*domain.FieldError](err); ok {
		renamed := *field
		renamed.Field = cmp.Or(names[field.Field], field.Field)
		return []error{&renamed}
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// source finds policies by name only: the policies of a program match no requests.
type source struct{ set *policy.Set }

func (s source) Named(name string) (*policy.Policy, error) {
	if p := s.set.Named(name); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
}

// Shared implements ports.PolicySource: the policies of a program share no limits.
func (source) Shared(name string) (*policy.Shared, error) {
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, policy.SharedPrefix+name)
}

func (source) Match(*policy.Request) (*policy.Policy, error) { return nil, nil }
