package main

import (
	"runtime"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/metrics"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/top"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// observers tells each of them what happens, in order.
type observers []ports.Observer

var _ ports.Observer = observers(nil)

// Decided implements ports.Observer.
func (o observers) Decided(req *domain.Request, d *domain.Decision) {
	for _, each := range o {
		each.Decided(req, d)
	}
}

// StoreFailed implements ports.Observer.
func (o observers) StoreFailed(policy string, mode domain.FailureMode, cause error) {
	for _, each := range o {
		each.StoreFailed(policy, mode, cause)
	}
}

func provideObserver(log *telemetry.DecisionLog, m *metrics.Metrics, clients *top.Top) ports.Observer {
	return observers{log, m, clients}
}

func provideTop() (*top.Top, func()) {
	t := top.New()
	return t, func() { _ = t.Close() } // it has nothing to fail at
}

// provideMetrics counts policies by the names that an operator gave them: those in force and, at the door for Envoy,
// those of its files. No request names a policy that is not there.
func provideMetrics(
	s *store, local localStore, policies *policies, envoy grpcenvoy.Config, log *telemetry.Logger,
) *metrics.Metrics {
	v, commit := built()
	m := metrics.New(metrics.Build{Version: v, Revision: commit, GoVersion: runtime.Version()},
		func(policy string) bool {
			_, err := policies.Named(policy)
			return err == nil || envoy.Enabled()
		})
	watch := func(name string, held *memstore.Store) {
		m.WatchMemory(name, func() (int, uint64) {
			stats := held.Stats()
			return stats.Buckets, stats.Evictions
		})
	}
	watch("local", local.Store)
	if s.Memory != nil {
		watch("memory", s.Memory)
	}
	if s.Stats != nil {
		m.WatchShards(s.Stats)
	}
	if s.Shortcut != nil {
		m.WatchShortcut(s.Shortcut.Len, s.Shortcut.Hits)
	}
	if policies.File != nil {
		m.WatchReloads(func() (uint64, uint64, bool) {
			status := policies.File.Status()
			return status.Reloaded, status.Failed, status.Stale
		})
	}
	m.WatchLog(log.Dropped)
	return m
}

// provideServer makes the data plane, whose upstream is counted where there is one.
func provideServer(
	cfg httpfiber.Config, limiter ports.Limiter, m *metrics.Metrics, tracer ports.Tracer, log *zap.Logger,
) (*httpfiber.Server, error) {
	s, err := httpfiber.New(cfg, limiter, log)
	if err != nil {
		return nil, err
	}
	if cfg.Upstream.URL != "" {
		s.OnUpstream(m.WatchUpstream().Answered)
	}
	s.Trace(tracer)
	return s, nil
}

func provideMeasuredLimiter(limiter *app.RateLimiter, m *metrics.Metrics) ports.Limiter {
	return m.Measure(limiter)
}

func provideAdmin(
	cfg httpfiber.AdminConfig, inspector ports.Inspector, s *store, state httpfiber.ServiceState,
	inForce *policies, m *metrics.Metrics, clients *top.Top, log *zap.Logger,
) (*httpfiber.Admin, error) {
	v, _ := built()
	options := append(inForce.adminOptions(),
		httpfiber.WithMetrics(m.Handler()),
		httpfiber.WithTop(clients),
		httpfiber.WithProfiles(),
		httpfiber.WithLivePage(httpfiber.LiveSources{
			Monitor: m, Top: clients, Health: s.Health, Stats: s.Stats, Version: v,
		}),
	)
	return httpfiber.NewAdmin(cfg, inspector, s.Health, state, log, options...)
}
