package policyfile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Options are what a file leaves to the settings.
type Options struct {
	// OnStoreFailure of the policies that do not say; empty: open.
	OnStoreFailure domain.FailureMode
}

// Set is the policies of one file. Immutable, and safe for concurrent use.
type Set struct {
	*domain.PolicySet
	// Version is short and differs whenever the file's content does.
	Version string
}

var _ ports.PolicySource = (*Set)(nil)

// Load reads a file. What is wrong with its content comes as [Errors].
func Load(path string, options Options) (*Set, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return nil, err
	}
	return Parse(data, options)
}

// Parse reads the content of a file. The error is of type [Errors], and has every error that is in it.
func Parse(data []byte, options Options) (*Set, error) {
	if options.OnStoreFailure == "" {
		options.OnStoreFailure = domain.FailOpen
	}
	body, errs := parse(data)
	if len(errs) > 0 {
		return nil, errs
	}
	r := reader{options: options}
	root := place{node: body}
	root.at.Line, root.at.Column = 1, 1
	var doc document
	if body == nil {
		r.bad(root, "", "is empty: there must be one policy at least")
	} else {
		object(&r, root, documentFields, &doc)
	}
	if len(r.errs) > 0 {
		return nil, r.errs.sorted()
	}
	policies, err := domain.NewPolicySet(doc.policies)
	if err != nil { // each policy was looked at, so it is about all of them
		return nil, Errors{{Line: 1, Column: 1, Field: "policies", Reason: err.Error()}}
	}
	sum := sha256.Sum256(data)
	return &Set{policies, hex.EncodeToString(sum[:6])}, nil
}

// Named implements ports.PolicySource.
func (s *Set) Named(name string) (*domain.Policy, error) {
	if p := s.PolicySet.Named(name); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
}
