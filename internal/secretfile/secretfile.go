// Package secretfile reads secrets from files, as Docker and Kubernetes hand them over, and reads them again when the files
// change.
package secretfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/filewatch"
	"github.com/velocity-limiter/velocity/internal/secret"
)

// maxSize is the most bytes of a file: a mistaken path must not fill the memory.
const maxSize = 64 << 10

// File is a secret in a file. Make it with [Open]; safe for concurrent use.
type File struct {
	setting, path string
	use           func(secret.Secret) error
	current       atomic.Pointer[secret.Secret]

	mu          sync.Mutex      // held while the file is read
	seen        filewatch.State // when the file was last read
	unconfirmed bool            // it could not be used then; it may still be being written
}

// Open reads the file that a setting names. A missing or an empty file is an error, and so is what is no regular file, such as a
// folder or a pipe. The error names the setting and never shows what is in the file. Call [Follow] to follow its changes.
func Open(setting, path string) (*File, error) {
	f := &File{setting: setting, path: path, use: func(secret.Secret) error { return nil }, seen: filewatch.Look(path)}
	s, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	f.current.Store(&s)
	return f, nil
}

// Secret returns what the file held when it was last in order.
func (f *File) Secret() secret.Secret { return *f.current.Load() }

// OnChange sets the function that is called with each new secret, one call at a time. If it returns an error, the earlier secret
// stays; the error must not show the secret. Call OnChange before [Follow].
func (f *File) OnChange(use func(secret.Secret) error) { f.use = use }

// Follow reads each file again when it changes, until ctx ends. A file that cannot be used any more changes nothing: the error is
// logged once.
func Follow(ctx context.Context, log *zap.Logger, files ...*File) {
	if len(files) == 0 {
		return
	}
	paths := make([]string, len(files))
	for i, f := range files {
		paths[i] = f.path
	}
	filewatch.Watch(ctx, log, func() (again bool) {
		for _, f := range files {
			again = f.follow(log) || again
		}
		return again
	}, paths...)
}

// follow reads the file if it has changed. If the file cannot be used, follow reports nothing yet and returns true: the caller must
// call it again a little later, and then it reports the error.
func (f *File) follow(log *zap.Logger) (again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := filewatch.Look(f.path)
	changed := !seen.Same(f.seen)
	f.seen = seen
	if !changed && !f.unconfirmed {
		return false
	}
	s, err := read(f.path)
	if err == nil && s != f.Secret() {
		if err = f.use(s); err == nil {
			f.current.Store(&s)
			log.Info("A secret is read again", zap.String("setting", f.setting), zap.String("file", f.path))
		}
	}
	f.unconfirmed = err != nil && changed
	if err != nil && !changed {
		log.Error("A secret is not read again: the earlier one stays in force",
			zap.String("setting", f.setting), zap.String("file", f.path), zap.Error(err))
	}
	return f.unconfirmed
}

// read returns what a file holds, without a newline at its end.
func read(path string) (secret.Secret, error) {
	// Opening a named pipe would wait for somebody who writes to it.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s: %w", path, errNotRegular)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return "", err
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case strings.TrimSpace(text) == "":
		return "", fmt.Errorf("%s: %w", path, errEmpty)
	case len(data) > maxSize:
		return "", fmt.Errorf("%s: %w", path, errTooLong)
	}
	return secret.Secret(text), nil
}

var (
	errNotRegular = errors.New("it is a folder, a pipe or a device, not a file")
	errEmpty      = errors.New("the file is empty")
	errTooLong    = fmt.Errorf("the file has more than %d bytes", maxSize)
)
