package policyfile

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Live is the policies of a file that may change. A request sees the old policies or the new ones, never some of both; a
// file that is broken changes nothing. Safe for concurrent use.
type Live struct {
	path    string
	options Options
	log     *zap.Logger
	set     atomic.Pointer[Set]

	reloaded, failed atomic.Uint64
	stale            atomic.Bool

	mu sync.Mutex // held while the file is read
	// seen is how the file looked when it was last read, and seenErr why it could not be looked at.
	seen    os.FileInfo
	seenErr error
	// doubted says that the file could not be loaded when it looked like that: it may not be written to its end.
	doubted bool
}

var _ ports.PolicySource = (*Live)(nil)

// Open loads the file, which must be right at the beginning. [Live.Watch] follows it.
func Open(path string, options Options, log *zap.Logger) (*Live, error) {
	l := &Live{path: path, options: options, log: log}
	l.seen, l.seenErr = os.Stat(path) // before it is read: what changes meanwhile will be noticed
	set, err := Load(path, options)
	if err != nil {
		return nil, err
	}
	l.set.Store(set)
	return l, nil
}

// Named implements ports.PolicySource.
func (l *Live) Named(name string) (*domain.Policy, error) { return l.set.Load().Named(name) }

// Match implements ports.PolicySource.
func (l *Live) Match(req *domain.Request) *domain.Policy { return l.set.Load().Match(req) }

// All returns the policies in force, in their order. The slice is not to be changed.
func (l *Live) All() []*domain.Policy { return l.set.Load().All() }

// Status of a Live.
type Status struct {
	// Reloaded and Failed count the attempts to load the file again.
	Reloaded, Failed uint64
	// Stale says that the last attempt failed: what is in force is not what the file holds.
	Stale bool
	// Version of the policies in force, as [Set.Version], and how many there are.
	Version  string
	Policies int
}

// Status returns the counters and what is in force.
func (l *Live) Status() Status {
	set := l.set.Load()
	return Status{
		Reloaded: l.reloaded.Load(), Failed: l.failed.Load(), Stale: l.stale.Load(), Version: set.Version,
		Policies: len(set.All()),
	}
}

// Reload loads the file and puts its policies into force, or reports what is wrong with it, as [Load] does, and leaves
// those that are. Either is logged and counted.
func (l *Live) Reload() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen, l.seenErr = os.Stat(l.path)
	return l.loadLocked()
}

func (l *Live) loadLocked() error {
	set, err := Load(l.path, l.options)
	l.doubted = false
	return l.takeLocked(set, err)
}

// takeLocked puts what was loaded into force.
func (l *Live) takeLocked(set *Set, err error) error {
	if err != nil {
		l.failed.Add(1)
		l.stale.Store(true)
		l.log.Error("Policies are not reloaded: those of before stay in force", zap.String("file", l.path), zap.Strings("errors", linesOf(err)))
		return err
	}
	old := l.set.Swap(set)
	l.reloaded.Add(1)
	l.stale.Store(false)
	l.log.Info("Policies are reloaded", zap.String("file", l.path), zap.String("version", set.Version),
		zap.Int("policies", len(set.All())), zap.Bool("changed", old.Version != set.Version))
	return nil
}

func linesOf(err error) []string {
	var many Errors
	if !errors.As(err, &many) {
		return []string{err.Error()}
	}
	lines := make([]string, len(many))
	for i, e := range many {
		lines[i] = e.Error()
	}
	return lines
}

// follow reloads the file if it looks different from when it was last read. What is broken or missing is told only if it
// still is when it looks the same a little later: then again is true, and follow is to be called once more.
func (l *Live) follow() (again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := os.Stat(l.path)
	changed := (err == nil) != (l.seenErr == nil) || err == nil && !same(info, l.seen)
	if !changed && !l.doubted {
		return false
	}
	l.seen, l.seenErr = info, err
	set, err := Load(l.path, l.options)
	l.doubted = err != nil && changed
	if !l.doubted {
		_ = l.takeLocked(set, err) // it is logged
	}
	return l.doubted
}

func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// Of changes that the system tells of, nothing is lost by looking a little later, when an editor has finished; of those
// that it does not tell of, such as on network file systems, we find out by looking.
const (
	settleTime   = 100 * time.Millisecond
	lookInterval = 5 * time.Second
)
