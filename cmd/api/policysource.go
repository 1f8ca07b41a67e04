package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// policies are those in force: the settings' single one, or those of a file.
type policies struct {
	ports.PolicySource
	All  func() []*domain.Policy
	File *policyfile.Live // nil: there is no file
}

func providePolicies(cfg policyConfig, log *zap.Logger) (*policies, error) {
	if cfg.File == "" {
		policy, err := cfg.policy()
		if err != nil {
			return nil, err
		}
		single, err := app.NewSinglePolicy(policy)
		if err != nil {
			return nil, err
		}
		return &policies{single, single.All, nil}, nil
	}
	live, err := policyfile.Open(cfg.File, policyfile.Options{OnStoreFailure: cfg.OnStoreFailure}, log)
	if err != nil {
		if !isFileError(err) {
			return nil, fmt.Errorf(prefix+"POLICY_FILE: %w", err)
		}
		return nil, fileErrors(cfg.File, err)
	}
	return &policies{live, live.All, live}, nil
}

// failureMode is closed if every policy is: only then can nothing be decided while no shard answers.
func (p *policies) failureMode() domain.FailureMode {
	for _, policy := range p.All() {
		if policy.OnStoreFailure != domain.FailClosed {
			return policy.OnStoreFailure
		}
	}
	return domain.FailClosed
}

// follow reloads the file when it changes and on SIGHUP, until ctx ends.
func (p *policies) follow(ctx context.Context, log *zap.Logger) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	if p.File != nil {
		go p.File.Watch(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			if p.File == nil {
				log.Info("SIGHUP has nothing to reload: VELOCITY_POLICY_FILE is not set")
				continue
			}
			_ = p.File.Reload() // it is logged
		}
	}
}

// adminOptions serve the policies on the admin plane.
func (p *policies) adminOptions() []httpfiber.AdminOption {
	return []httpfiber.AdminOption{httpfiber.WithPolicies(p.All), httpfiber.WithReload(p.reload)}
}

func (p *policies) reload() (httpfiber.Reloaded, error) {
	if p.File == nil {
		return httpfiber.Reloaded{}, errors.New(prefix + "POLICY_FILE is not set: there is no file to load")
	}
	err := p.File.Reload()
	status := p.File.Status()
	return httpfiber.Reloaded{Policies: status.Policies, Version: status.Version}, err
}

// startFields describe what is in force at the start.
func (p *policies) startFields(cfg policyConfig) []zap.Field {
	if p.File != nil {
		return []zap.Field{
			zap.String("policyFile", cfg.File), zap.Int("policies", len(p.All())), zap.String("policyVersion", p.File.Status().Version),
		}
	}
	policy := p.All()[0]
	return []zap.Field{
		zap.String("policy", policy.Name),
		zap.Stringer("limit", &policy.Limits[0]),
		zap.Stringer("clientKey", policy.Key),
		zap.String("onStoreFailure", string(policy.OnStoreFailure)),
	}
}

// isFileError says that the settings are right, but not what the policy file holds.
func isFileError(err error) bool {
	var wrong *policyfile.Error
	return errors.As(err, &wrong)
}

// fileErrors puts the file's name before each of its errors.
func fileErrors(path string, err error) error {
	var wrong policyfile.Errors
	if !errors.As(err, &wrong) {
		return err // a missing file's error names it
	}
	lines := make([]error, len(wrong))
	for i, e := range wrong {
		lines[i] = fmt.Errorf("%s:%w", path, e)
	}
	return errors.Join(lines...)
}
