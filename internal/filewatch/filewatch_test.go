package filewatch_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/filewatch"
)

// patience bounds every wait. It is long because other tests may slow the machine down.
const patience = 20 * time.Second

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func TestState_sameAsLongAsNothingChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	missing := filewatch.Look(path)
	assert.True(t, missing.Same(filewatch.Look(path)))
	assert.True(t, missing.Same(filewatch.State{}))

	write(t, path, "one")
	first := filewatch.Look(path)
	assert.False(t, first.Same(missing))
	assert.False(t, missing.Same(first))
	assert.True(t, first.Same(filewatch.Look(path)))
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Unix(1, 0)))
	assert.False(t, first.Same(filewatch.Look(path)), "the time")
	closed := filewatch.Look(path)
	require.NoError(t, os.Chmod(path, 0o644))
	assert.False(t, closed.Same(filewatch.Look(path)), "it may be readable now")

	old := filewatch.Look(path)
	next := path + ".next"
	write(t, next, "two")
	require.NoError(t, os.Chtimes(next, time.Time{}, time.Unix(1, 0)))
	require.NoError(t, os.Rename(next, path))
	assert.False(t, old.Same(filewatch.Look(path)), "another file of the same size and time")
}

// The second text has the size of the first, and is written within the same step of the file system's clock.
func TestState_aRewriteOfTheSameSizeAndTimeIsAChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	step := time.Now().Add(-time.Second)
	writeAt := func(text string) {
		write(t, path, text)
		require.NoError(t, os.Chtimes(path, time.Time{}, step))
	}
	writeAt("one")
	first := filewatch.Look(path)
	assert.True(t, filewatch.Look(path).Same(first))
	writeAt("two")
	second := filewatch.Look(path)
	assert.False(t, second.Same(first))
	time.Sleep(time.Until(step.Add(2100 * time.Millisecond))) // the file is not fresh any more
	later := filewatch.Look(path)
	assert.False(t, later.Same(first))
	assert.True(t, later.Same(second))
	assert.True(t, filewatch.Look(path).Same(later))
}

func TestWatch_callsAtOnceAfterAChangeAndAgainIfAsked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "one")
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		ended.Wait()
	})
	calls, again := make(chan struct{}), make(chan bool)
	ended.Go(func() {
		filewatch.Watch(ctx, zap.NewNop(), func() bool {
			select {
			case calls <- struct{}{}:
				return <-again
			case <-ctx.Done():
				return false
			}
		}, path)
	})
	called := func(answer bool) {
		t.Helper()
		select {
		case <-calls:
			again <- answer
		case <-time.After(patience):
			require.Fail(t, "it is not called")
		}
	}
	called(false) // at the start
	write(t, path, "two")
	called(true)
	began := time.Now()
	called(false)
	assert.Less(t, time.Since(began), 4*time.Second, "before the next poll")
}
