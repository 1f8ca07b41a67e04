package policyfile

import (
	"errors"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/filewatch"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Live holds the policies of a file that may change. A request sees either all old policies or all new ones. A file with
// errors changes nothing. Live is safe for concurrent use.
type Live struct {
	*filewatch.Live[Set]
}

var _ ports.PolicySource = (*Live)(nil)

// Open loads the file, which must have no errors. Call [filewatch.Live.Watch] to follow its changes.
func Open(path string, onStoreFailure policy.FailureMode, log *zap.Logger, options ...Option) (*Live, error) {
	live, err := filewatch.Open(filewatch.Source[Set]{
		Path: path,
		Load: func(notes func(string)) (*Set, error) { return load(path, onStoreFailure, options, notes) },
		Log:  log, Reloaded: "Policies are reloaded",
		NotReloaded: "Policies are not reloaded: the earlier policies stay in force",
		Fields: func(before, loaded *Set) []zap.Field {
			return []zap.Field{
				zap.String("version", loaded.Version), zap.Int("policies", len(loaded.All())),
				zap.Bool("changed", before.Version != loaded.Version),
			}
		},
		Lines: linesOf,
	})
	if err != nil {
		return nil, err
	}
	return &Live{live}, nil
}

func linesOf(err error) []string {
	if many, ok := errors.AsType[Errors](err); ok {
		return many.lines()
	}
	return []string{err.Error()}
}

// Named implements ports.PolicySource.
func (l *Live) Named(name string) (*policy.Policy, error) { return l.Current().Named(name) }

// Match implements ports.PolicySource.
func (l *Live) Match(req *policy.Request) (*policy.Policy, error) { return l.Current().Match(req) }

// Shared implements ports.PolicySource.
func (l *Live) Shared(name string) (*policy.Shared, error) { return l.Current().Shared(name) }

// All returns the policies in force, in their order. The caller must not change the slice.
func (l *Live) All() []*policy.Policy { return l.Current().All() }

// Status describes a Live.
type Status struct {
	filewatch.Attempts
	// Version and Policies are the [Set.Version] and the number of the policies in force.
	Version  string
	Policies int
}

// Status returns the current status.
func (l *Live) Status() Status {
	set := l.Current()
	return Status{Attempts: l.Attempts(), Version: set.Version, Policies: len(set.All())}
}
