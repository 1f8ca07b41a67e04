package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
)

const (
	// shutdownTimeout bounds the end: afterwards what is still in flight is cut off. Container platforms kill after
	// 10 or 30 seconds.
	shutdownTimeout = 9 * time.Second
)

// service is the whole, put together by Wire.
type service struct {
	API      *httpfiber.Server
	GRPC     *grpcDoor
	Admin    *httpfiber.Admin
	Store    *store
	Local    localStore
	Policies *policies
	Log      *zap.Logger
}

// serve runs the service until ctx ends, and returns the exit code. Logs go to stdout; what keeps it from starting
// goes to stderr, too, as plain text.
func serve(ctx context.Context, cfg config, stdout, stderr io.Writer) int {
	fail := func(code int, err error) int {
		for _, violation := range violations(err) {
			_, _ = fmt.Fprintf(stderr, "api: %v\n", violation)
		}
		return code
	}
	log, err := telemetry.NewLogger(cfg.Log, stdout)
	if err != nil {
		return fail(exitUsage, err)
	}
	defer func() { _ = log.Close() }() // nobody is left to be told
	s, cleanup, err := newService(cfg, log)
	if err != nil {
		if isFileError(err) {
			return fail(exitFailed, err)
		}
		return fail(exitUsage, err) // nothing is opened yet, so that only the settings can be wrong
	}
	defer cleanup()
	if err := s.run(ctx, cfg); err != nil {
		log.Error("Stopped by a failure", zap.Error(err))
		return fail(exitFailed, err)
	}
	log.Info("Stopped")
	return exitOK
}

// run serves all planes until ctx ends or one of them fails.
func (s *service) run(ctx context.Context, cfg config) error {
	api, admin, err := s.listen()
	if err != nil {
		return err
	}
	s.warnOfUnknownSettings()
	s.logStart(cfg, api.Addr(), admin.Addr())
	go s.greetShards(ctx)
	go s.watchMemory(ctx)
	go s.Policies.follow(ctx, s.Log)

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
	return errors.Join(err, s.shutdown(context.WithoutCancel(ctx)))
}

// listen opens all ports before anything is served, so that a port that is taken stops the start.
func (s *service) listen() (api, admin net.Listener, err error) {
	if api, err = s.API.Listen(); err != nil {
		return nil, nil, err
	}
	if admin, err = s.Admin.Listen(); err != nil {
		return nil, nil, errors.Join(err, api.Close())
	}
	if err = s.GRPC.listen(); err != nil {
		return nil, nil, errors.Join(err, api.Close(), admin.Close())
	}
	return api, admin, nil
}

// shutdown stops the doors first, together: until they have finished, the admin plane tells that the service is draining.
func (s *service) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	grpc := make(chan error, 1)
	go func() { grpc <- s.GRPC.shutdown(ctx) }()
	return errors.Join(s.API.Shutdown(ctx), <-grpc, s.Admin.Shutdown(ctx))
}

func (s *service) logStart(cfg config, api, admin net.Addr) {
	s.Log.Info("Started", append([]zap.Field{
		zap.String("version", versionLine()),
		zap.String("store", string(s.Store.Name)),
		zap.Int("shards", len(s.Store.Shards)),
		zap.Stringer("addr", api),
		zap.Stringer("adminAddr", admin),
		zap.String("decisionAPI", decisionAPIAccess(cfg.HTTP)),
		zap.String("upstream", cfg.HTTP.Upstream.URL),
	}, s.Policies.startFields(cfg.Policy)...)...)
	s.logPlacement()
	for _, shard := range s.Store.Shards {
		s.Log.Info("Shard", zap.String("shard", shard.Name), zap.String("identity", shard.Identity),
			zap.String("addr", shard.Addr))
	}
	s.GRPC.logStart(s.Log)
	if len(s.Store.Shards) == 0 {
		s.Log.Warn("The buckets are in this process's memory: each process counts on its own, and a restart forgets. " +
			"Set VELOCITY_REDIS_ADDRS to share them")
	}
	_ = s.Log.Sync() // whoever watches the start need not wait for the next flush
}

func decisionAPIAccess(cfg httpfiber.Config) string {
	switch {
	case cfg.APIToken != "":
		return "token"
	case cfg.Upstream.URL != "":
		return "off: its paths are the upstream's until VELOCITY_API_TOKEN is set"
	default:
		return "protected: loopback and trusted proxies only, until VELOCITY_API_TOKEN is set"
	}
}

func (s *service) warnOfUnknownSettings() {
	for _, unknown := range unknownSettings(os.Environ(), settingsOf(&config{})) {
		fields := []zap.Field{zap.String("variable", unknown.name)}
		if unknown.nearest != "" {
			fields = append(fields, zap.String("nearest", unknown.nearest))
		}
		s.Log.Warn("This environment variable is no setting", fields...)
	}
}
