package httpfiber

import (
	"context"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// healthTimeout bounds one look at all shards; probes commonly wait a second.
const healthTimeout = 800 * time.Millisecond

type readiness struct {
	health ports.HealthChecker
	state  ServiceState
	log    *zap.Logger
}

// answer tells whether the service should get work: it should while it can decide, even in a degraded way.
func (r *readiness) answer(c *fiber.Ctx) error {
	ctx, cancel := context.WithTimeout(c.UserContext(), healthTimeout)
	defer cancel()
	shards := r.health.CheckHealth(ctx)
	for _, s := range shards {
		if s.Err != nil {
			r.log.Debug("a shard does not answer", zap.String("shard", s.Name), zap.Error(s.Err))
		}
	}
	members := appendShards(nil, shards)
	switch state := r.of(shards); state {
	case stateDraining:
		unready(c.Context(), state, "the service is stopping", members)
	case stateUnavailable:
		unready(c.Context(), state, "no shard answers, and the policy then refuses", members)
	default:
		ready(c.Context(), state, members)
	}
	return nil
}

// The states of readiness. In the first two the service should get work.
const (
	stateReady       = "ready"
	stateDegraded    = "degraded"
	stateUnavailable = "unavailable"
	stateDraining    = "draining"
)

// of is the state while the shards are so.
func (r *readiness) of(shards []ports.ShardHealth) string {
	down := 0
	for _, s := range shards {
		if s.Err != nil {
			down++
		}
	}
	switch {
	case r.state.Draining != nil && r.state.Draining():
		return stateDraining
	case down > 0 && down == len(shards) && r.failureMode() == domain.FailClosed:
		return stateUnavailable
	case down > 0:
		return stateDegraded
	default:
		return stateReady
	}
}

func (r *readiness) failureMode() domain.FailureMode {
	if r.state.FailureMode == nil {
		return domain.FailOpen
	}
	return r.state.FailureMode()
}

func ready(ctx *fasthttp.RequestCtx, state string, members []byte) {
	body := append([]byte(`{"state":"`), state...)
	body = append(body, '"')
	body = append(body, members...)
	writeJSON(ctx, append(body, '}'))
}

func unready(ctx *fasthttp.RequestCtx, state, detail string, members []byte) {
	extra := append([]byte(`,"state":"`), state...)
	extra = append(extra, '"')
	writeProblem(ctx, &problem{
		status: fasthttp.StatusServiceUnavailable, detail: detail, retrySeconds: storeRetrySeconds,
		extra: append(extra, members...),
	})
}

// appendShards names shards and never their addresses: readiness is answered without the token.
func appendShards(dst []byte, shards []ports.ShardHealth) []byte {
	dst = append(dst, `,"shards":[`...)
	for i, s := range shards {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = appendString(dst, s.Name)
		if s.Err == nil {
			dst = append(dst, `,"state":"up"}`...)
		} else {
			dst = append(dst, `,"state":"down"}`...)
		}
	}
	return append(dst, ']')
}
