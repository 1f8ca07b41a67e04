package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
)

// reloader loads the files of policies and of Envoy's rules again while the service runs.
type reloader struct {
	policies *policyfile.Live  // nil if there is no file
	envoy    *envoyconfig.Live // nil if there is no file
}

func provideReloader(p *policies, grpc *grpcListener) *reloader {
	r := &reloader{policies: p.File}
	if grpc.server != nil {
		r.envoy = grpc.server.Rules()
	}
	return r
}

// catchHangups returns a channel of SIGHUPs, which end the process where nothing catches them.
func catchHangups() (hangups <-chan os.Signal, stop func()) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	return caught, func() { signal.Stop(caught) }
}

// follow reloads each file when it changes, and all on SIGHUP, until ctx ends.
func (r *reloader) follow(ctx context.Context, hangups <-chan os.Signal, log *zap.Logger) {
	if r.policies != nil {
		go r.policies.Watch(ctx)
	}
	if r.envoy != nil {
		go r.envoy.Watch(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			// Other errors have been logged.
			if err := r.reload(); errors.Is(err, errNoFiles) {
				log.Info("SIGHUP has nothing to reload", zap.Error(err))
			}
		}
	}
}

var errNoFiles = errors.New("neither VELOCITY_POLICY_FILE nor VELOCITY_ENVOY_CONFIG is set: there is no file to load")

// reload loads all files. An error in one of them does not keep the others from coming into force.
func (r *reloader) reload() error {
	if r.policies == nil && r.envoy == nil {
		return errNoFiles
	}
	var errs []error
	if r.policies != nil {
		errs = append(errs, r.policies.Reload())
	}
	if r.envoy != nil {
		errs = append(errs, r.envoy.Reload())
	}
	return errors.Join(errs...)
}

// loaded describes what is in force of the files.
func (r *reloader) loaded() (now admin.Reloaded) {
	if r.policies != nil {
		status := r.policies.Status()
		now.Policies, now.Version = status.Policies, status.Version
	}
	if r.envoy != nil {
		rules := r.envoy.Current()
		now.Envoy = &admin.EnvoyRules{Rules: rules.Len(), Version: rules.Version()}
	}
	return now
}
