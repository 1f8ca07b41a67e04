// Package filewatch notices that files have changed: edited in place, replaced by renaming another one, or swapped by a
// symbolic link in their folder, as Kubernetes does. Who reads a file decides what a change means.
package filewatch

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

const (
	// freshTime is the age up to which the time of a change does not tell a file from a later one: a file system may count in
	// steps of up to two seconds, and who writes twice within one step may write as many bytes.
	freshTime = 2 * time.Second
	// maxCompared is how much of a fresh file is compared.
	maxCompared = 16 << 20
)

// State is what [Look] saw of a file. The zero value differs from every file that is there.
type State struct {
	path string
	info os.FileInfo        // nil if the file is missing, or cannot be looked at
	sum  *[sha256.Size]byte // of the content's beginning; nil if the file was not fresh, or cannot be read
}

// Look returns the state of a file. Call it before reading the file, so that a change in between is noticed next time.
func Look(path string) State {
	info, err := os.Stat(path)
	if err != nil {
		return State{}
	}
	s := State{path: path, info: info}
	if time.Since(info.ModTime()) < freshTime {
		s.sum = s.read()
	}
	return s
}

// read returns the sum of the file's content as it is now, or nil if it has none that can be read.
func (s State) read() *[sha256.Size]byte {
	if !s.info.Mode().IsRegular() {
		return nil
	}
	file, err := os.Open(s.path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }() // it was only read
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(file, maxCompared)); err != nil {
		return nil
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	return &sum
}

// Same reports whether a file has not changed between an earlier look at it and this one. A file that was fresh at the earlier
// look must have the same content. If it has, compare the next look with this one: the file is read only as long as it is fresh.
func (s State) Same(earlier State) bool {
	if s.info == nil || earlier.info == nil {
		return s.info == nil && earlier.info == nil
	}
	if !os.SameFile(s.info, earlier.info) || s.info.Size() != earlier.info.Size() || !s.info.ModTime().Equal(earlier.info.ModTime()) ||
		s.info.Mode() != earlier.info.Mode() { // it may be readable now
		return false
	}
	if earlier.sum == nil {
		return true
	}
	now := s.sum
	if now == nil {
		now = s.read()
	}
	return now != nil && *now == *earlier.sum
}

const (
	// quietTime is the delay after a notice of a change, so that an editor can finish writing.
	quietTime = 100 * time.Millisecond
	// pollInterval is for changes without a notice, such as on network file systems.
	pollInterval = 5 * time.Second
)

// Watch calls follow at once, after each change of one of the files, and every few seconds, until ctx ends. follow must look
// for itself which files have changed. It returns true to be called again a little later, such as for a file that is still
// being written. Watch watches folders instead of files, because editors replace a file by renaming a new one. A path may be a
// folder: then Watch watches what is in it.
func Watch(ctx context.Context, log *zap.Logger, follow func() (again bool), paths ...string) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("Files cannot be watched: they are checked every few seconds", zap.Strings("files", paths), zap.Error(err))
		watcher = &fsnotify.Watcher{} // its nil channels never deliver
	} else {
		defer func() { _ = watcher.Close() }() // its error changes nothing any more
	}
	pending := false
	watchFolders(watcher, paths)
	follow() // a change before the watch began
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	quiet := time.NewTimer(quietTime)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-watcher.Errors: // such as an overflow, after which events are lost
			log.Warn("Watching files", zap.Strings("files", paths), zap.Error(err))
			quiet.Reset(quietTime)
			continue
		case <-watcher.Events:
			// Only the first event starts the timer, or a busy folder would delay the call forever.
			if !pending {
				quiet.Reset(quietTime)
				pending = true
			}
			continue
		case <-quiet.C:
		case <-poll.C:
		}
		if pending = follow(); pending {
			quiet.Reset(quietTime)
		}
		watchFolders(watcher, paths)
	}
}

// watchFolders watches the folder of each path, if the path is a link, the folder of its target, and the path itself if it is a
// folder. It must be called after each change, since a folder that was removed and created is not watched any more.
func watchFolders(w *fsnotify.Watcher, paths []string) {
	if w.Events == nil {
		return
	}
	for _, path := range paths {
		_ = w.Add(filepath.Dir(path)) // if this fails, polling finds the changes
		if target, err := filepath.EvalSymlinks(path); err == nil {
			_ = w.Add(filepath.Dir(target))
			if info, err := os.Stat(target); err == nil && info.IsDir() {
				_ = w.Add(target)
			}
		}
	}
}
