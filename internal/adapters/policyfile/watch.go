package policyfile

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

// Watch reloads the file whenever it changes, until ctx ends. It watches the folders, not the file: editors rename a
// new file into the place of the old one, and Kubernetes swaps a symbolic link beside it.
func (l *Live) Watch(ctx context.Context) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		l.log.Warn("The policy file cannot be watched: it is looked at every few seconds", zap.Error(err))
		watcher = &fsnotify.Watcher{} // tells of nothing
	} else {
		defer func() { _ = watcher.Close() }() // nobody is left to be told
	}
	folders := watched{watcher: watcher}
	folders.add(l.path)
	l.follow() // what happened before
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	settle := time.NewTimer(settleTime)
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-watcher.Errors: // such as too many events: some are lost
			l.log.Warn("Watching the policy file", zap.Error(err))
			settle.Reset(settleTime)
			continue
		case <-watcher.Events:
			// Not every event puts it off, or a busy folder would put it off for ever.
			if !folders.pending {
				settle.Reset(settleTime)
				folders.pending = true
			}
			continue
		case <-settle.C:
		case <-look.C:
		}
		if folders.pending = l.follow(); folders.pending {
			settle.Reset(settleTime)
		}
		folders.add(l.path)
	}
}

// watched are the folders that are watched.
type watched struct {
	watcher *fsnotify.Watcher
	pending bool
}

// add watches the folder of the file and that of the file behind it, if it is a link. What is watched already stays so;
// a folder that was made anew is watched again.
func (w *watched) add(path string) {
	if w.watcher.Events == nil {
		return
	}
	_ = w.watcher.Add(filepath.Dir(path)) // the interval finds what this cannot
	if target, err := filepath.EvalSymlinks(path); err == nil {
		_ = w.watcher.Add(filepath.Dir(target))
	}
}
