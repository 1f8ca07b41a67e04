package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/adapters/jwtclaims"
	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/secretfile"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// The process ends within stopTimeout after the drain period, whatever does not answer: container platforms kill it after 10 or
// 30 seconds, and the drain period is a second by default.
const (
	stopTimeout = 8 * time.Second
	// requestsTimeout is how long requests in flight may take of it; then they are cut off.
	requestsTimeout = 6 * time.Second
	// closeTimeout is when permits, stores and traces are not waited for any more. The log takes the rest.
	closeTimeout = stopTimeout - telemetry.CloseTimeout
)

// service holds what Wire composes.
type service struct {
	API   dataPlane
	GRPC  *grpcListener
	Admin *admin.Server
	Store *store
	Local localStore
	// Overrides are followed while the service runs.
	Overrides ports.OverrideStore
	Policies  *policies
	Files     *reloader
	Log       *zap.Logger

	// stopping is when it began to stop, and the drain period; zero before.
	stopping time.Time     `wire:"-"`
	drain    time.Duration `wire:"-"`
}

// serve runs the service until ctx ends, and returns the exit code. Logs go to standard output. An error that keeps the
// service from starting is also written to standard error, as plain text.
func serve(ctx context.Context, cfg settings.Config, s command.Streams) int {
	fail := func(code int, err error) int {
		for _, violation := range settings.Violations(cfg.Named(err)) {
			_, _ = fmt.Fprintf(s.Err, "velocity: %v\n", violation)
		}
		return code
	}
	log, err := telemetry.NewLogger(cfg.Log, s.Out)
	if err != nil {
		return fail(command.ExitUsage, err)
	}
	defer func() { _ = log.Close() }()     // the process ends: there is no place to report an error
	defer zap.RedirectStdLog(log.Logger)() // libraries write there, net/http's Transport for one
	hangups, stop := catchHangups()        // also while the files are loaded
	defer stop()
	limitMemory(&cfg, log.Logger)
	svc, cleanup, err := newService(cfg, log)
	var inFile *policyfile.Error
	var keys *jwtclaims.KeysError
	switch {
	case errors.As(err, &inFile), errors.As(err, &keys): // the settings are right, the policy file is not
		return fail(command.ExitFailed, err)
	case err != nil:
		return fail(command.ExitUsage, err) // no port is open yet: only a setting can be wrong
	}
	defer svc.close(cleanup)
	if err := svc.run(ctx, cfg, hangups); err != nil {
		log.Error("Stopped by a failure", zap.Error(err))
		return fail(command.ExitFailed, err)
	}
	log.Info("Stopped")
	return command.ExitOK
}

// run serves until ctx ends or a server fails.
func (s *service) run(ctx context.Context, cfg settings.Config, hangups <-chan os.Signal) error {
	api, admin, err := s.listen()
	if err != nil {
		return err
	}
	s.warnOfUnknownSettings()
	s.logStart(cfg, api.Addr(), admin.Addr())
	go s.checkShards(ctx)
	go s.watchMemory(ctx)
	go paceCollector(ctx, cfg.GRPC.Enabled())
	go s.Overrides.FollowOverrides(ctx)
	go s.Files.follow(ctx, hangups, s.Log)
	go secretfile.Follow(ctx, s.Log, cfg.SecretFiles...)

	failed := make(chan error, 3)
	go func() { failed <- s.API.Serve(api) }()
	go func() { failed <- s.Admin.Serve(admin) }()
	s.GRPC.serve(failed)
	select {
	case <-ctx.Done():
		s.Log.Info("Stopping: requests in flight are finished")
	case err = <-failed:
		if err == nil {
			err = errors.New("a server stopped by itself")
		}
	}
	s.stopping, s.drain = time.Now(), cfg.HTTP.DrainPeriod
	return errors.Join(err, s.shutdown(context.WithoutCancel(ctx)))
}

// listen opens all ports before any of them is served, so that the service does not start if one is taken.
func (s *service) listen() (api, admin net.Listener, err error) {
	if api, err = s.API.Listen(); err != nil {
		return nil, nil, fmt.Errorf("VELOCITY_HTTP_ADDR: %w", err)
	}
	if admin, err = s.Admin.Listen(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("VELOCITY_ADMIN_ADDR: %w", err), api.Close())
	}
	if err = s.GRPC.listen(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("VELOCITY_GRPC_ADDR: %w", err), api.Close(), admin.Close())
	}
	return api, admin, nil
}

// shutdown stops the data plane and the gRPC server first, at the same time. The admin plane reports that the service is
// draining until both have finished.
func (s *service) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, s.stopping.Add(s.drain+requestsTimeout))
	defer cancel()
	grpc := make(chan error, 1)
	go func() { grpc <- s.GRPC.shutdown(ctx) }()
	return errors.Join(s.API.Shutdown(ctx), <-grpc, s.Admin.Shutdown(ctx))
}

// close calls cleanup, which ends permits, closes stores and sends traces. It does not wait for longer than the process has left.
func (s *service) close(cleanup func()) {
	if s.stopping.IsZero() { // it has not run
		s.stopping = time.Now()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cleanup()
	}()
	left := time.NewTimer(time.Until(s.stopping.Add(s.drain + closeTimeout)))
	defer left.Stop()
	select {
	case <-done:
	case <-left.C:
		s.Log.Warn("Stopped before everything was closed: permits may stay held until their leases end, and traces may be lost")
	}
}

func (s *service) logStart(cfg settings.Config, api, admin net.Addr) {
	s.Log.Info("Started", append([]zap.Field{
		zap.String("version", versionLine()),
		zap.String("store", string(s.Store.Name)),
		zap.Int("shards", len(s.Store.Shards)),
		zap.Stringer("addr", api),
		zap.Stringer("adminAddr", admin),
		zap.String("decisionAPI", decisionAPIAccess(cfg)),
		zap.String("upstream", cfg.Upstream.URL),
	}, s.Policies.startFields(cfg.Policy)...)...)
	s.logShardRouting()
	for _, shard := range s.Store.Shards {
		s.Log.Info("Shard", zap.String("shard", shard.Name), zap.String("identity", shard.Identity),
			zap.String("addr", shard.Addr))
	}
	s.GRPC.logStart(s.Log)
	if len(s.Store.Shards) == 0 {
		s.Log.Warn("The buckets are in this process's memory: each process counts on its own, and a restart forgets. " +
			"Set VELOCITY_REDIS_ADDRS to share them")
	}
	_ = s.Log.Sync() // so that the lines show before the next flush
}

func decisionAPIAccess(cfg settings.Config) string {
	switch {
	case cfg.HTTP.APIToken != "":
		return "token"
	case cfg.Upstream.Enabled():
		return "off: its paths are the upstream's until VELOCITY_API_TOKEN is set"
	default:
		return "protected: loopback and trusted proxies only, until VELOCITY_API_TOKEN is set"
	}
}

func (s *service) warnOfUnknownSettings() {
	for _, unknown := range settings.Unknown(os.Environ()) {
		fields := []zap.Field{zap.String("variable", unknown.Name)}
		if unknown.Nearest != "" {
			fields = append(fields, zap.String("nearest", unknown.Nearest))
		}
		s.Log.Warn("This environment variable is no setting", fields...)
	}
}
