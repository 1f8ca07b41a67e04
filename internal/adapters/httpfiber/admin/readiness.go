package admin

import (
	"context"
	"time"

	"github.com/gofiber/fiber/v2"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// healthTimeout bounds one check of all shards. Probes commonly wait a second.
const healthTimeout = 800 * time.Millisecond

type readiness struct {
	health    ports.HealthChecker
	state     ServiceState
	overrides func() ports.OverridesStatus // nil without overrides at run time
	log       *zap.Logger
}

// answer reports whether the service should get work: it should while it can decide, even in a degraded way.
func (r *readiness) answer(c *fiber.Ctx) error {
	ctx, cancel := context.WithTimeout(c.UserContext(), healthTimeout)
	defer cancel()
	shards := r.health.CheckHealth(ctx)
	// The answer names the shards without their addresses, because it needs no token.
	states := make([]shardState, len(shards))
	for i, s := range shards {
		states[i] = shardState{s.Name, "up"}
		if s.Err != nil {
			states[i].State = "down"
			r.log.Debug("a shard does not answer", zap.String("shard", s.Name), zap.Error(s.Err))
		}
	}
	state, detail := r.of(shards), ""
	switch state {
	case stateDraining:
		detail = "the service is stopping"
	case stateStarting:
		detail = "the keys of tokens are not loaded yet: jwt in the policy file says where they are"
	case stateUnavailable:
		detail = "no shard answers, and the policy refuses requests until one does"
		if r.ofShards(shards) != stateUnavailable {
			detail = "the overrides of clients have not been read yet, and the policy refuses requests while the store fails"
		}
	default:
		return answerJSON(c, jsonReadiness{state, states, string(r.tokenKeys()), r.unknownOverrides()})
	}
	extra := map[string]any{"state": state, "shards": states}
	if unknown := r.unknownOverrides(); unknown != "" {
		extra["overrides"] = unknown
	}
	reply.Problem(c.Context(), &problem.Problem{
		Status: fiber.StatusServiceUnavailable, Detail: detail, RetrySeconds: 1, Extra: extra,
	})
	return nil
}

type (
	jsonReadiness struct {
		State  string       `json:"state"`
		Shards []shardState `json:"shards"`
		// TokenKeys is "missing" while no keys of tokens have been loaded.
		TokenKeys string `json:"token_keys,omitempty"`
		Overrides string `json:"overrides,omitempty"` // see unknownOverrides
	}
	shardState struct {
		Name  string `json:"name"`
		State string `json:"state"`
	}
)

// The states of readiness. In the first two the service should get work.
const (
	stateReady       = "ready"
	stateDegraded    = "degraded"
	stateStarting    = "starting"
	stateUnavailable = "unavailable"
	stateDraining    = "draining"
)

// keysState is the state of the keys of tokens; empty if they are loaded or not needed.
type keysState string

// The states of keys that are not loaded.
const (
	keysAwaited keysState = "awaited"
	keysMissing keysState = "missing"
)

func (r *readiness) tokenKeys() keysState {
	if r.state.TokenKeys == nil {
		return ""
	}
	switch loaded, starting := r.state.TokenKeys(); {
	case loaded:
		return ""
	case starting:
		return keysAwaited
	default:
		return keysMissing
	}
}

// of returns the state for a state of the shards. Where every policy refuses requests while the store fails, a process that has not
// yet read the overrides of clients should get none either.
func (r *readiness) of(shards []ports.ShardHealth) string {
	state := r.ofShards(shards)
	if state != stateDraining && r.overridesUnknown() && r.failureMode() == policy.FailClosed {
		return stateUnavailable
	}
	return state
}

func (r *readiness) overridesUnknown() bool { return r.overrides != nil && !r.overrides().Known }

// unknownOverrides is the member overrides of an answer: "unknown", or "" for none.
func (r *readiness) unknownOverrides() string {
	if r.overridesUnknown() {
		return "unknown"
	}
	return ""
}

func (r *readiness) ofShards(shards []ports.ShardHealth) string {
	keys, down := r.tokenKeys(), 0
	for _, s := range shards {
		if s.Err != nil {
			down++
		}
	}
	switch {
	case r.state.Draining != nil && r.state.Draining():
		return stateDraining
	case down > 0 && down == len(shards) && r.failureMode() == policy.FailClosed:
		return stateUnavailable
	case keys == keysAwaited:
		return stateStarting
	case down > 0 || keys == keysMissing:
		return stateDegraded
	default:
		return stateReady
	}
}

func (r *readiness) failureMode() policy.FailureMode {
	if r.state.FailureMode == nil {
		return policy.FailOpen
	}
	return r.state.FailureMode()
}
