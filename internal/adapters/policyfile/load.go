// Package policyfile reads policies from a YAML file, and reads it again when it changes.
//
// A file is accepted or refused as a whole. A refusal lists every error with its line and column, the value found, and what
// would be right. Before parsing, the size of the file, its nesting and the number of fields in a mapping are bounded;
// anchors, aliases, tags and repeated keys are refused. Package domain defines what the policies mean.
package policyfile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/domain/token"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Set holds the policies of one file. It is immutable.
type Set struct {
	*policy.Set
	// Version is a short hash of the file's content, and of the files with bodies that it names.
	Version string
	// JWT says which tokens are believed. Nil: none are.
	JWT *token.Rules
}

var _ ports.PolicySource = (*Set)(nil)

// Option says how a file is read.
type Option func(*reader)

// WithKeySecret makes keys that are secret possible: hasher replaces their values. Nil is as if the option were missing: a file
// with such a key is refused.
func WithKeySecret(hasher *clientkey.Hasher) Option { return func(r *reader) { r.hasher = hasher } }

// Load reads a file. Errors in its content are returned as [Errors]. Policies without on_store_failure get onStoreFailure;
// empty means open.
func Load(path string, onStoreFailure policy.FailureMode, options ...Option) (*Set, error) {
	return load(path, onStoreFailure, options, func(string) {})
}

// load is [Load]. Before it reads a file that the policy file names, it calls notes with its path.
func load(path string, onStoreFailure policy.FailureMode, options []Option, notes func(path string)) (*Set, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return nil, err
	}
	r := reader{folder: filepath.Dir(path), notes: notes}
	set, err := r.parse(data, onStoreFailure, options)
	if err == nil && set.JWT != nil {
		placeRelativePaths(set.JWT, path)
	}
	return set, err
}

// Parse reads the content of a file. Its relative paths stay as they are. The error has the type [Errors], and lists every error.
func Parse(data []byte, onStoreFailure policy.FailureMode, options ...Option) (*Set, error) {
	r := reader{notes: func(string) {}}
	return r.parse(data, onStoreFailure, options)
}

// parse is [Parse] by a reader that knows the folder of relative paths.
func (r *reader) parse(data []byte, onStoreFailure policy.FailureMode, options []Option) (*Set, error) {
	body, errs := parse(data)
	if len(errs) > 0 {
		return nil, errs
	}
	r.onStoreFailure = cmp.Or(onStoreFailure, policy.FailOpen)
	for _, option := range options {
		option(r)
	}
	root := place{node: body}
	root.at.Line, root.at.Column = 1, 1
	var doc document
	if body == nil {
		r.bad(root, "", "is empty: there must be at least one policy")
	} else {
		object(r, root, documentFields, &doc)
	}
	var rules *token.Rules
	if doc.jwt.field != "" {
		rules = readRules(r, doc.jwt)
	}
	if doc.shared.field != "" {
		readShared(r, doc.shared)
	}
	var policies []policy.Policy
	if doc.policies.field != "" {
		policies = readPolicies(r, doc.policies)
	}
	if len(r.errs) > 0 {
		return nil, r.errs.sorted()
	}
	set, err := policy.NewSet(policies, r.allShared()...)
	if err != nil { // each policy has been checked, so the error is about all of them
		return nil, Errors{{Line: 1, Column: 1, Field: "policies", Reason: err.Error()}}
	}
	sum := sha256.Sum256(slices.Concat(data, slices.Concat(r.bodies...)))
	return &Set{set, hex.EncodeToString(sum[:6]), rules}, nil
}

// Named implements ports.PolicySource.
func (s *Set) Named(name string) (*policy.Policy, error) {
	if p := s.Set.Named(name); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
}

// Shared implements ports.PolicySource.
func (s *Set) Shared(name string) (*policy.Shared, error) {
	if shared := s.SharedNamed(name); shared != nil {
		return shared, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, policy.SharedPrefix+name)
}
