package grpcenvoy

import (
	"sync"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain"
)

// overrideName is the policy of a limit that a request brings, in logs, metrics and keys.
const overrideName = "envoy-override"

// maxOverrides bounds those that are kept. An Envoy has a few in its routes.
const maxOverrides = 1024

// overrides are the limits that requests bring, worked out once each.
type overrides struct {
	failure domain.FailureMode
	mu      sync.RWMutex
	rules   map[envoyconfig.Quota]*envoyconfig.Rule
}

func newOverrides(failure domain.FailureMode) *overrides {
	return &overrides{failure: failure, rules: map[envoyconfig.Quota]*envoyconfig.Rule{}}
}

var overrideUnits = map[typev3.RateLimitUnit]envoyconfig.Unit{
	typev3.RateLimitUnit_SECOND: envoyconfig.Second,
	typev3.RateLimitUnit_MINUTE: envoyconfig.Minute,
	typev3.RateLimitUnit_HOUR:   envoyconfig.Hour,
	typev3.RateLimitUnit_DAY:    envoyconfig.Day,
	typev3.RateLimitUnit_MONTH:  envoyconfig.Month,
	typev3.RateLimitUnit_YEAR:   envoyconfig.Year,
}

// rule returns the rule of a limit that a request brings.
func (o *overrides) rule(l *ratelimitv3.RateLimitDescriptor_RateLimitOverride) (*envoyconfig.Rule, error) {
	unit, known := overrideUnits[l.GetUnit()]
	if !known {
		return nil, invalid("descriptors.limit.unit: %v: is no unit of time", l.GetUnit())
	}
	quota := envoyconfig.Quota{Requests: l.GetRequestsPerUnit(), Unit: unit}
	o.mu.RLock()
	rule := o.rules[quota]
	o.mu.RUnlock()
	if rule != nil {
		return rule, nil
	}
	rule, err := quota.Rule(overrideName, o.failure)
	if err != nil {
		return nil, invalid("descriptors.limit: %v", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.rules) >= maxOverrides { // somebody makes them up; those in use are soon back
		clear(o.rules)
	}
	o.rules[quota] = rule
	return rule, nil
}
