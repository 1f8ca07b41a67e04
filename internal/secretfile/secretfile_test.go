package secretfile_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/secretfile"
)

// patience bounds every wait. It is long because other tests may slow the machine down.
const patience = 20 * time.Second

const notRead = "A secret is not read again: the earlier one stays in force"

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// follow follows the files until the test ends.
func follow(t *testing.T, files ...*secretfile.File) *observer.ObservedLogs {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { secretfile.Follow(ctx, zap.New(core), files...) })
	t.Cleanup(func() {
		cancel()
		ended.Wait()
	})
	return logs
}

func becomes(t *testing.T, f *secretfile.File, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return string(f.Secret()) == want }, patience, time.Millisecond)
}

func TestOpen_trimsOneNewlineAtTheEnd(t *testing.T) {
	for text, want := range map[string]string{
		"hunter2": "hunter2", "hunter2\n": "hunter2", "hunter2\r\n": "hunter2", "hunter2\n\n": "hunter2\n", " a b \n": " a b ",
	} {
		path := filepath.Join(t.TempDir(), "secret")
		write(t, path, text)
		f, err := secretfile.Open("X_FILE", path)
		require.NoError(t, err)
		assert.Equal(t, want, string(f.Secret()), "%q", text)
	}
}

func TestOpen_refusesWhatIsNoSecret(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "newline": "\n", "spaces": " \t\n\n", "long": strings.Repeat("x", 64<<10+1)} {
		path := filepath.Join(dir, name)
		write(t, path, text)
		_, err := secretfile.Open("X_FILE", path)
		require.ErrorContains(t, err, "X_FILE: "+path)
		assert.NotContains(t, err.Error(), "xxx")
	}
	_, err := secretfile.Open("X_FILE", filepath.Join(dir, "nothing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Opening a pipe would wait for somebody who writes to it.
func TestOpen_refusesWhatIsNoRegularFile(t *testing.T) {
	dir := t.TempDir()
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	require.NoError(t, os.Symlink(pipe, link))
	for _, path := range []string{dir, pipe, link, os.DevNull} {
		_, err := secretfile.Open("X_FILE", path)
		assert.EqualError(t, err, "X_FILE: "+path+": it is a folder, a pipe or a device, not a file")
	}
	file := filepath.Join(dir, "file")
	write(t, file, "hunter2")
	require.NoError(t, os.Symlink(file, link+"2"))
	_, err := secretfile.Open("X_FILE", link+"2")
	assert.NoError(t, err)
}

func TestFollow_everyKindOfChange(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(t.TempDir(), "b")
	write(t, a, "a1")
	write(t, b, "b1")
	first, err := secretfile.Open("A_FILE", a)
	require.NoError(t, err)
	second, err := secretfile.Open("B_FILE", b)
	require.NoError(t, err)
	logs := follow(t, first, second)
	write(t, a, "a22\n")
	becomes(t, first, "a22")
	write(t, filepath.Join(dir, "next"), "a333")
	require.NoError(t, os.Rename(filepath.Join(dir, "next"), a))
	becomes(t, first, "a333")
	write(t, b, "b22")
	becomes(t, second, "b22")
	assert.Empty(t, logs.FilterMessage(notRead).All())
}

// Kubernetes mounts a Secret as links: token -> ..data/token, ..data -> ..<time>, and swaps ..data.
func TestFollow_theLinksOfKubernetes(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, text string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		write(t, filepath.Join(dir, version, "token"), text)
		require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	publish("..1", "one")
	path := filepath.Join(dir, "token")
	require.NoError(t, os.Symlink("..data/token", path))
	f, err := secretfile.Open("X_FILE", path)
	require.NoError(t, err)
	follow(t, f)
	publish("..2", "two")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "..1")))
	becomes(t, f, "two")
	publish("..3", "six")
	becomes(t, f, "six")
}

func TestFollow_aFileThatCannotBeUsedChangesNothingAndIsLoggedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "one")
	f, err := secretfile.Open("X_FILE", path)
	require.NoError(t, err)
	refuse := errors.New("is refused")
	var used atomic.Int32
	f.OnChange(func(s secret.Secret) error {
		if s == "wrong" {
			return refuse
		}
		used.Add(1)
		return nil
	})
	logs := follow(t, f)
	failed := func() int { return logs.FilterMessage(notRead).Len() }
	for i, breakIt := range []func(){
		func() { require.NoError(t, os.Remove(path)) },
		func() { write(t, path, "\n") },
		func() { write(t, path, "wrong") },
	} {
		breakIt()
		require.Eventually(t, func() bool { return failed() == i+1 }, patience, time.Millisecond)
		assert.Equal(t, "one", string(f.Secret()))
	}
	write(t, path, "three")
	becomes(t, f, "three")
	assert.Equal(t, 3, failed(), "each state once")
	assert.EqualValues(t, 1, used.Load())
	for _, line := range logs.All() {
		assert.Equal(t, "X_FILE", line.ContextMap()["setting"])
		assert.NotContains(t, fmt.Sprint(line.ContextMap()), "wrong")
		assert.NotContains(t, fmt.Sprint(line.ContextMap()), "three")
	}
}
