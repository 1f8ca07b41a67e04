package main

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/jwtclaims"
	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// policies are the policies in force: that of the settings, or those of a file.
type policies struct {
	ports.PolicySource
	All  func() []*policy.Policy
	File *policyfile.Live // nil if there is no file
	// KeySecretDigest distinguishes secrets of keys in the log; "" if there is none.
	KeySecretDigest string
}

func providePolicies(cfg settings.Policy, log *zap.Logger) (*policies, error) {
	if cfg.File == "" {
		p, err := cfg.Single()
		if err != nil {
			return nil, err
		}
		single, err := app.NewSinglePolicy(p)
		if err != nil {
			return nil, err
		}
		return &policies{PolicySource: single, All: single.All}, nil
	}
	hasher, err := cfg.KeyHasher()
	if err != nil {
		return nil, err
	}
	live, err := policyfile.Open(cfg.File, cfg.OnStoreFailure, log, policyfile.WithKeySecret(hasher))
	if err != nil {
		if !errors.As(err, new(policyfile.Errors)) {
			return nil, fmt.Errorf("VELOCITY_POLICY_FILE: %w", err)
		}
		return nil, policyfile.WithPath(cfg.File, err)
	}
	found := &policies{PolicySource: live, All: live.All, File: live}
	if hasher != nil {
		found.KeySecretDigest = hasher.Digest()
	}
	return found, nil
}

// msgNoTokens says why claims are never found. The decision API's callers may name them all the same.
const msgNoTokens = "Policies have a claim in a key or a condition, and the policy file has no jwt: requests over HTTP have no claims"

// provideTokens makes the verifier of tokens, which follows the section jwt of the policy file.
func provideTokens(sizes settings.Sizes, inForce *policies, log *zap.Logger) (*jwtclaims.Verifier, func(), error) {
	v := jwtclaims.New(log)
	v.LimitMemory(sizes.TokenBytes)
	cleanup := func() { _ = v.Close() } // it never fails
	if inForce.File == nil {
		return v, cleanup, nil
	}
	err := inForce.File.Accept(func(set *policyfile.Set) error {
		if names := set.UsesClaims(); set.JWT == nil && len(names) > 0 {
			log.Warn(msgNoTokens, zap.Strings("policies", names))
		}
		return v.Use(set.JWT)
	})
	if err != nil {
		cleanup()
		return nil, nil, err
	}
	return v, cleanup, nil
}

// failureMode is closed if every policy is: only then does the service deny every request while no shard answers.
func (p *policies) failureMode() policy.FailureMode {
	for _, p := range p.All() {
		if p.OnStoreFailure != policy.FailClosed {
			return p.OnStoreFailure
		}
	}
	return policy.FailClosed
}

// startFields are the log fields that describe the policies at the start.
func (p *policies) startFields(cfg settings.Policy) []zap.Field {
	if p.File != nil {
		fields := []zap.Field{
			zap.String("policyFile", cfg.File), zap.Int("policies", len(p.All())), zap.String("policyVersion", p.File.Status().Version),
		}
		if p.KeySecretDigest != "" {
			fields = append(fields, zap.String("keySecretDigest", p.KeySecretDigest))
		}
		return fields
	}
	own := p.All()[0]
	return []zap.Field{
		zap.String("policy", own.Name),
		zap.Stringer("limit", &own.Limits[0]),
		zap.Stringer("clientKey", own.Key),
		zap.String("onStoreFailure", string(own.OnStoreFailure)),
	}
}
