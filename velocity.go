// Package velocity limits rates in a Go program: in its own memory, or exactly across a fleet on Redis.
//
// A [Limiter] has policies; each counts keys, as users or addresses, against token buckets: so many tokens at once, so
// many more per time. [Limiter.Allow] takes a token, [Limiter.AllowN] several, [Limiter.Wait] waits until there is one.
// Packages velocityhttp, velocitygrpc and velocityfiber put a limiter in front of a server.
//
// No key ever gets more than capacity + refill * elapsed / per, whoever asks at the same time and from however many
// processes, while the store answers; what happens when it does not is the policy's [Failure] mode.
package velocity

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// DefaultPolicy is the name of the policy by which a new [Limiter] decides.
const DefaultPolicy = domain.DefaultPolicyName

var (
	// ErrUnavailable says that the store did not answer, and that the policy then refuses, or that a refund may not have
	// been carried out.
	ErrUnavailable = ports.ErrUnavailable
	// ErrNever says that no wait helps: more tokens were asked for than the capacity.
	ErrNever = errors.New("velocity: the cost is above the capacity")
	// ErrInvalid says that the question cannot be answered: an empty key, a negative cost. Nothing was taken.
	ErrInvalid = domain.ErrInvalidRequest
)

// Config says what is limited, and where the buckets are.
type Config struct {
	// Limits are those of the policy [DefaultPolicy]. They are taken together or not at all.
	Limits []Limit
	// Failure is what that policy does while the store fails; empty: Open.
	Failure Failure
	// Policies are further ones, for [Limiter.Policy]. One called default may stand there instead of Limits.
	Policies []Policy

	// Redis has the address of each shard, "host:port" or "name=host:port". Empty: the buckets are in memory, and the
	// limits this process's own.
	Redis []string
	// RedisUsername and RedisPassword are for servers that ask for them; RedisTLS speaks TLS, trusting the system's
	// authorities or those of RedisCAFile.
	RedisUsername, RedisPassword string
	RedisTLS                     bool
	RedisCAFile                  string
	// TakeTimeout is the budget of one decision at the store; 0: 50 ms.
	TakeTimeout time.Duration
	// MaxKeys bounds the buckets in memory, about 100 bytes each; 0: a million. Past it the fullest leave.
	MaxKeys int
	// OnFailure is told why the store failed, for each decision that it failed to make. It must not block. Nil: nobody is.
	OnFailure func(policy string, cause error)
}

// Policy is a named set of limits.
type Policy struct {
	// Name is part of each bucket's name: [a-z0-9][a-z0-9_-]{0,62}.
	Name string
	// Limits are taken together or not at all.
	Limits []Limit
	// Failure is what is decided while the store fails; empty: Open.
	Failure Failure
}

// Failure says what is decided while the store fails.
type Failure string

// The failure modes.
const (
	Open   Failure = "open"   // allow
	Closed Failure = "closed" // refuse
	Local  Failure = "local"  // decide in this process's memory
)

// Limit is a token bucket: Capacity tokens at most, and so many at once; Refill more in each Per.
type Limit struct {
	// Name tells a policy's limits apart; empty: default.
	Name             string
	Capacity, Refill int64
	Per              time.Duration
}

// PerSecond is a limit of n tokens a second, and n at once.
func PerSecond(n int64) Limit { return Limit{Capacity: n, Refill: n, Per: time.Second} }

// PerMinute is a limit of n tokens a minute, and n at once.
func PerMinute(n int64) Limit { return Limit{Capacity: n, Refill: n, Per: time.Minute} }

// PerHour is a limit of n tokens an hour, and n at once.
func PerHour(n int64) Limit { return Limit{Capacity: n, Refill: n, Per: time.Hour} }

// Burst is the same limit with another capacity.
func (l Limit) Burst(capacity int64) Limit {
	l.Capacity = capacity
	return l
}

// Named is the same limit with a name.
func (l Limit) Named(name string) Limit {
	l.Name = name
	return l
}

// Limiter decides by one of its policies. Make it with [New]. Safe for concurrent use.
type Limiter struct {
	policy string
	shared *shared
}

// shared is what the limiters of several policies have in common.
type shared struct {
	limiter *app.RateLimiter
	close   []func() error
}

// New opens the store, which needs not answer yet. The error joins everything that is wrong with the configuration.
func New(cfg Config) (*Limiter, error) {
	policies, err := cfg.policies()
	if err != nil {
		return nil, err
	}
	s := &shared{}
	memory := memstore.DefaultConfig()
	if cfg.MaxKeys != 0 {
		memory.MaxBuckets = cfg.MaxKeys
	}
	local, err := memstore.New(memory)
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, local.Close)
	var store ports.BucketStore
	if len(cfg.Redis) > 0 {
		store, err = s.openRedis(cfg)
	} else {
		store, err = s.openMemory(memory)
	}
	if err != nil {
		return nil, errors.Join(err, s.closeAll())
	}
	s.limiter = app.NewRateLimiter(store, local, policies, observer{cfg.OnFailure})
	return &Limiter{policy: DefaultPolicy, shared: s}, nil
}

// openMemory keeps the buckets apart from those that decide for a failed store: in memory nothing fails.
func (s *shared) openMemory(cfg memstore.Config) (ports.BucketStore, error) {
	store, err := memstore.New(cfg)
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, store.Close)
	return store, nil
}

func (s *shared) openRedis(cfg Config) (ports.BucketStore, error) {
	redis := redisstore.DefaultConfig(cfg.Redis...)
	redis.Username, redis.Password = cfg.RedisUsername, redisstore.Secret(cfg.RedisPassword)
	redis.TLS, redis.TLSCAFile = cfg.RedisTLS, cfg.RedisCAFile
	if cfg.TakeTimeout != 0 {
		redis.TakeTimeout = cfg.TakeTimeout
	}
	store, err := redisstore.New(redis)
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, store.Close)
	began := time.Now()
	shortcut, err := app.NewShortcut(app.ShortcutConfig{MaxEntries: 1 << 16, MaxAge: time.Second}, store,
		func() time.Duration { return time.Since(began) })
	if err != nil {
		return nil, err
	}
	store.Manager().OnFailover(shortcut.Forget)
	s.close = append(s.close, func() error { shortcut.Close(); return nil })
	return shortcut, nil
}

func (s *shared) closeAll() error {
	var errs []error
	for _, end := range slices.Backward(s.close) {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

// Close closes the store. It is called once, for all policies.
func (l *Limiter) Close() error { return l.shared.closeAll() }

// Policy is the same limiter, deciding by another policy. Asking it fails where there is none of this name.
func (l *Limiter) Policy(name string) *Limiter { return &Limiter{policy: name, shared: l.shared} }

// observer tells the program of failures.
type observer struct {
	failed func(policy string, cause error)
}

func (observer) Decided(*domain.Request, *domain.Decision) {}

func (o observer) StoreFailed(policy string, _ domain.FailureMode, cause error) {
	if o.failed != nil {
		o.failed(policy, cause)
	}
}

// policies compiles those of the configuration.
func (c Config) policies() (ports.PolicySource, error) {
	list := c.Policies
	if len(c.Limits) > 0 {
		list = append([]Policy{{Name: DefaultPolicy, Limits: c.Limits, Failure: c.Failure}}, list...)
	}
	var errs []error
	compiled := make([]domain.Policy, 0, len(list))
	for _, p := range list {
		one, err := p.compile()
		if err != nil {
			errs = append(errs, fmt.Errorf("velocity: policy %q: %w", p.Name, err))
		}
		compiled = append(compiled, one)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(compiled) == 0 {
		return nil, errors.New("velocity: there are no limits: set Limits or Policies")
	}
	set, err := domain.NewPolicySet(compiled)
	if err != nil {
		return nil, fmt.Errorf("velocity: %w", err)
	}
	return source{set}, nil
}

func (p Policy) compile() (domain.Policy, error) {
	out := domain.Policy{
		Name: p.Name, Key: domain.Key{{Kind: domain.SourceHeader, Name: "key"}}, OnStoreFailure: domain.FailureMode(p.Failure),
	}
	if p.Failure == "" {
		out.OnStoreFailure = domain.FailOpen
	}
	var errs []error
	for _, l := range p.Limits {
		limit, err := domain.NewLimit(l.Name, domain.Tokens(l.Capacity), domain.Tokens(l.Refill), l.Per)
		if err != nil {
			errs = append(errs, err)
		}
		out.Limits = append(out.Limits, limit)
	}
	if err := errors.Join(errs...); err != nil {
		return out, err
	}
	return out, out.Validate()
}

// source finds policies by name: those of a program match no request by themselves.
type source struct{ set *domain.PolicySet }

func (s source) Named(name string) (*domain.Policy, error) {
	if p := s.set.Named(name); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
}

func (source) Match(*domain.Request) *domain.Policy { return nil }
