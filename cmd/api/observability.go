package main

import (
	"context"
	"runtime"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/adapters/jwtclaims"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/metrics"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/top"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/tracing"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// observers passes every call on to each observer that is interested, in order.
type observers []ports.Observer

var _ ports.HoldObserver = observers(nil)

// Decided implements ports.Observer.
func (o observers) Decided(req *policy.Request, d *decision.Decision) {
	for _, each := range o {
		each.Decided(req, d)
	}
}

// StoreFailed implements ports.Observer.
func (o observers) StoreFailed(policyName string, mode policy.FailureMode, cause error) {
	for _, each := range o {
		each.StoreFailed(policyName, mode, cause)
	}
}

// Waiting implements ports.HoldObserver.
func (o observers) Waiting(policyName string, change int) {
	o.ofHolds(func(each ports.HoldObserver) { each.Waiting(policyName, change) })
}

// Waited implements ports.HoldObserver.
func (o observers) Waited(policyName string, outcome ports.WaitOutcome) {
	o.ofHolds(func(each ports.HoldObserver) { each.Waited(policyName, outcome) })
}

// PermitsHeld implements ports.HoldObserver.
func (o observers) PermitsHeld(policyName string, change int) {
	o.ofHolds(func(each ports.HoldObserver) { each.PermitsHeld(policyName, change) })
}

// PermitExpired implements ports.HoldObserver.
func (o observers) PermitExpired(policyName string) {
	o.ofHolds(func(each ports.HoldObserver) { each.PermitExpired(policyName) })
}

// DebtReached implements ports.HoldObserver.
func (o observers) DebtReached(policyName string) {
	o.ofHolds(func(each ports.HoldObserver) { each.DebtReached(policyName) })
}

func (o observers) ofHolds(call func(ports.HoldObserver)) {
	for _, each := range o {
		if holds, ok := each.(ports.HoldObserver); ok {
			call(holds)
		}
	}
}

func provideObserver(log *telemetry.DecisionLog, m *metrics.Metrics, clients *top.Top) ports.Observer {
	return observers{log, m, clients}
}

func provideTop(sizes settings.Sizes) (*top.Top, func()) {
	t := top.New()
	t.LimitPolicies(sizes.TopPolicies)
	return t, func() { _ = t.Close() } // it never fails
}

// provideMetrics makes the metrics and connects their sources. Only names that an operator has chosen become labels: the
// policies in force, and those of Envoy's files if the gRPC listener is on.
func provideMetrics(
	s *store, local localStore, policies *policies, overrides ports.OverrideStore, tokens *jwtclaims.Verifier, envoy grpcenvoy.Config,
	log *telemetry.Logger,
) *metrics.Metrics {
	v, commit := built()
	m := metrics.New(metrics.Build{Version: v, Revision: commit, GoVersion: runtime.Version()},
		func(policyName string) bool {
			_, err := policies.Named(policyName)
			return err == nil || envoy.Enabled()
		})
	for name, buckets := range memoryStores(s, local) {
		m.WatchMemory(name, func() (int, uint64) {
			stats := buckets.Stats()
			return stats.Buckets, stats.Evictions
		})
	}
	if s.Stats != nil {
		m.WatchShards(s.Stats)
	}
	if s.DenialCache != nil {
		m.WatchDenialCache(s.DenialCache.Len, s.DenialCache.Hits)
	}
	if policies.File != nil {
		m.WatchReloads(func() (uint64, uint64, bool) {
			status := policies.File.Status()
			return status.Reloaded, status.Failed, status.Stale
		})
		watchTokens(m, tokens)
	}
	m.WatchOverrides(overrides.OverridesStatus)
	m.WatchLog(log.Dropped)
	return m
}

func watchTokens(m *metrics.Metrics, tokens *jwtclaims.Verifier) {
	reasons := jwtclaims.Reasons()
	names := make([]string, len(reasons))
	for i, reason := range reasons {
		names[i] = reason.String()
	}
	m.WatchTokens(names, func(i int) uint64 { return tokens.Rejected(reasons[i]) }, tokens.Loads, func() (missing, stale bool) {
		loaded, _ := tokens.Keys()
		return !loaded, tokens.Stale()
	})
}

func provideMeasuredLimiter(limiter *app.RateLimiter, m *metrics.Metrics) ports.Limiter {
	m.WatchUnfitOverrides(limiter.UnfitOverrides)
	return m.Measure(limiter)
}

func provideAdmin(
	cfg admin.Config, limiter *app.RateLimiter, s *store, api dataPlane, tokens *jwtclaims.Verifier,
	inForce *policies, files *reloader, m *metrics.Metrics, clients *top.Top, log *zap.Logger,
) (*admin.Server, error) {
	v, _ := built()
	state := admin.ServiceState{FailureMode: inForce.failureMode, Draining: api.Draining, TokenKeys: tokens.Keys}
	return admin.New(cfg, limiter, s.Health, state, log,
		admin.WithOverrides(limiter),
		admin.WithShownKeys(limiter.ShownKey),
		admin.WithPolicies(inForce.All),
		admin.WithReload(files.loaded, files.reload),
		admin.WithMetrics(m.Handler()),
		admin.WithTop(clients),
		admin.WithProfiles(),
		admin.WithLivePage(admin.LiveSources{
			Monitor: m, Top: clients, Health: s.Health, Stats: s.Stats, Version: v,
		}),
	)
}

// flushTimeout is how long the process waits at its end for a collector that does not answer.
const flushTimeout = time.Second

// provideTracer makes the tracer that OpenTelemetry's environment variables configure; nil if they configure none. The
// cleanup sends the spans that are recorded.
func provideTracer(log *zap.Logger) (ports.Tracer, func(), error) {
	v, _ := built()
	t, err := tracing.New(context.Background(), v, func(err error) { log.Warn("OpenTelemetry", zap.Error(err)) })
	if t == nil {
		return nil, func() {}, err
	}
	return t, func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		if err := t.Shutdown(ctx); err != nil {
			log.Warn("Traces may be lost", zap.Error(err))
		}
	}, nil
}
