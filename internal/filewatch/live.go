package filewatch

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// Source says how a [Live] loads its content. All members but Files are needed.
type Source[T any] struct {
	// Path of the file, or of the folder.
	Path string
	// Files lists the files that Load reads now. Nil means that this is Path alone.
	Files func(path string) ([]string, error)
	// Load reads the content. Before it reads a file that Files does not list, it calls notes with its path.
	Load func(notes func(path string)) (*T, error)

	Log *zap.Logger
	// Reloaded and NotReloaded are the messages in the log.
	Reloaded, NotReloaded string
	// Fields describe what is loaded, and what was in force before, in the log.
	Fields func(before, loaded *T) []zap.Field
	// Lines lists the errors in an error of Load.
	Lines func(error) []string
}

// Live holds the content of files that may change. A reader sees either all old content or all new content. Content with errors
// changes nothing. Live is safe for concurrent use.
type Live[T any] struct {
	source  Source[T]
	content atomic.Pointer[T]
	accept  func(*T) error // nil: everything is accepted

	reloaded, failed atomic.Uint64
	stale            atomic.Bool

	mu   sync.Mutex       // held while the files are read
	seen map[string]State // when the files were last read; nil if they could not be listed
	// unconfirmed says that the files could not be loaded then. They may still be being written.
	unconfirmed bool
	// refused says that accept refused the content then. It may accept the same content later.
	refused bool
}

// Open loads the content, which must have no errors. Call [Live.Watch] to follow its changes.
func Open[T any](source Source[T]) (*Live[T], error) {
	l := &Live[T]{source: source}
	content, err := l.load()
	if err != nil {
		return nil, err
	}
	l.content.Store(content)
	return l, nil
}

// load loads the content, and notes the state of every file before it is read, so that a change in between is noticed.
func (l *Live[T]) load() (*T, error) {
	l.seen = l.look()
	return l.source.Load(func(path string) {
		if l.seen == nil {
			l.seen = make(map[string]State)
		}
		l.seen[path] = Look(path)
	})
}

// same reports whether no file has changed since the content was loaded. If so, it keeps what it has just seen.
func (l *Live[T]) same() bool {
	now := l.look()
	for path := range l.seen {
		if _, listed := now[path]; !listed && now != nil {
			now[path] = Look(path)
		}
	}
	same := maps.EqualFunc(now, l.seen, State.Same)
	if same {
		l.seen = now
	}
	return same
}

// look returns the state of every file that is listed.
func (l *Live[T]) look() map[string]State {
	if l.source.Files == nil {
		return map[string]State{l.source.Path: Look(l.source.Path)}
	}
	files, err := l.source.Files(l.source.Path)
	if err != nil {
		return nil
	}
	states := make(map[string]State, len(files))
	for _, file := range files {
		states[file] = Look(file)
	}
	return states
}

// Current returns the content in force. It must not be changed.
func (l *Live[T]) Current() *T { return l.content.Load() }

// Accept calls accept with the content in force, and returns its error. From then on all content is given to accept before it
// comes into force; what accept refuses does not, as if it had an error. While the files are watched, accept is asked again every
// few seconds. Accept is for the time before [Live.Watch].
func (l *Live[T]) Accept(accept func(*T) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accept = accept
	return accept(l.content.Load())
}

// Attempts counts what became of the attempts to load the content again.
type Attempts struct {
	Reloaded, Failed uint64
	// Stale says that the last attempt failed: the content in force is not that of the files.
	Stale bool
}

// Attempts returns the current counts.
func (l *Live[T]) Attempts() Attempts {
	return Attempts{Reloaded: l.reloaded.Load(), Failed: l.failed.Load(), Stale: l.stale.Load()}
}

// Reload loads the content and puts it into force. If there are errors, it returns that of Load, and the earlier content stays.
// It logs and counts both.
func (l *Live[T]) Reload() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unconfirmed = false
	content, err := l.load()
	return l.takeLocked(content, err)
}

// takeLocked puts the loaded content into force, or reports the error.
func (l *Live[T]) takeLocked(content *T, err error) error {
	l.refused = false
	if err == nil && l.accept != nil {
		err = l.accept(content)
		l.refused = err != nil
	}
	s := l.source
	if err != nil {
		l.failed.Add(1)
		l.stale.Store(true)
		s.Log.Error(s.NotReloaded, zap.String("file", s.Path), zap.Strings("errors", s.Lines(err)))
		return err
	}
	before := l.content.Swap(content)
	l.reloaded.Add(1)
	l.stale.Store(false)
	s.Log.Info(s.Reloaded, append([]zap.Field{zap.String("file", s.Path)}, s.Fields(before, content)...)...)
	return nil
}

// Follow reloads the files if they have changed since they were last read. If the changed files have errors or are missing,
// Follow reports nothing yet and returns true: the caller must call it again a little later, and then it reports the errors.
// Watch calls it.
func (l *Live[T]) Follow() (again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := !l.same()
	if !changed && !l.unconfirmed && !l.refused {
		return false
	}
	content, err := l.load()
	if !changed && l.refused && (err != nil || l.accept(content) != nil) {
		return false // as before, which has been logged
	}
	l.unconfirmed = err != nil && changed
	if !l.unconfirmed {
		_ = l.takeLocked(content, err) // takeLocked has logged it
	}
	return l.unconfirmed
}

// Watch reloads the files whenever they change, until ctx ends.
func (l *Live[T]) Watch(ctx context.Context) { Watch(ctx, l.source.Log, l.Follow, l.source.Path) }
