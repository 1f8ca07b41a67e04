package grpcenvoy

import (
	"sync"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
)

// overrideName is the name of the policy of a limit in a request, in logs, metrics and keys.
const overrideName = "envoy-override"

// maxOverrides bounds how many are kept. An Envoy has a few in its routes.
const maxOverrides = 1024

// overrides caches the rules of limits in requests.
type overrides struct {
	options envoyconfig.Options
	mu      sync.RWMutex
	rules   map[envoyconfig.Rate]*envoyconfig.Rule
}

var overrideUnits = map[typev3.RateLimitUnit]envoyconfig.Unit{
	typev3.RateLimitUnit_SECOND: envoyconfig.Second,
	typev3.RateLimitUnit_MINUTE: envoyconfig.Minute,
	typev3.RateLimitUnit_HOUR:   envoyconfig.Hour,
	typev3.RateLimitUnit_DAY:    envoyconfig.Day,
	typev3.RateLimitUnit_MONTH:  envoyconfig.Month,
	typev3.RateLimitUnit_YEAR:   envoyconfig.Year,
}

// rule returns the rule of a limit in a request.
func (o *overrides) rule(l *ratelimitv3.RateLimitDescriptor_RateLimitOverride) (*envoyconfig.Rule, error) {
	unit, known := overrideUnits[l.GetUnit()]
	if !known {
		return nil, invalid("descriptors.limit.unit: %v: is not a unit of time", l.GetUnit())
	}
	rate := envoyconfig.Rate{Requests: l.GetRequestsPerUnit(), Unit: unit}
	o.mu.RLock()
	rule := o.rules[rate]
	o.mu.RUnlock()
	if rule != nil {
		return rule, nil
	}
	name := overrideName
	if o.options.Quotas { // of one descriptor, windows of different units count apart, as in envoyproxy/ratelimit
		name += "-" + unit.String()
	}
	rule, err := rate.Rule(name, o.options)
	if err != nil {
		return nil, invalid("descriptors.limit: %v", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.rules) >= maxOverrides { // a client invents them; those in use soon come back
		clear(o.rules)
	}
	o.rules[rate] = rule
	return rule, nil
}
