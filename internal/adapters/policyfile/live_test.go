package policyfile_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// patience bounds every wait. It is long because other tests may slow the machine down.
const patience = 20 * time.Second

// file is a policy file of n policies, all of that capacity.
func file(n int, capacity domain.Tokens) []byte {
	text := "policies:\n"
	for i := range n {
		text += fmt.Sprintf("  - { name: p%d, match: { path: /p%d }, limits: [ { rate: 5/s, capacity: %d } ] }\n", i, i, capacity)
	}
	return []byte(text)
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

func open(t *testing.T, path string) (*policyfile.Live, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	live, err := policyfile.Open(path, "", zap.New(core))
	require.NoError(t, err)
	return live, logs
}

// watch follows the file until the test ends.
func watch(t *testing.T, live *policyfile.Live) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { live.Watch(ctx) })
	t.Cleanup(func() {
		cancel()
		ended.Wait()
	})
}

func capacity(live *policyfile.Live) domain.Tokens { return live.All()[0].Limits[0].Capacity() }

func TestLive_followsEveryKindOfChange(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir, path string, data []byte){
		"written in place": func(t *testing.T, _, path string, data []byte) { write(t, path, data) },
		"renamed into its place, as editors do": func(t *testing.T, dir, path string, data []byte) {
			write(t, filepath.Join(dir, ".policies.yaml.swp"), data)
			require.NoError(t, os.Rename(filepath.Join(dir, ".policies.yaml.swp"), path))
		},
		"removed and created again": func(t *testing.T, _, path string, data []byte) {
			require.NoError(t, os.Remove(path))
			write(t, path, data)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "policies.yaml")
			write(t, path, file(1, 10))
			live, _ := open(t, path)
			watch(t, live)
			for _, c := range []domain.Tokens{11, 12} {
				change(t, dir, path, file(1, c))
				require.Eventually(t, func() bool { return capacity(live) == c }, patience, time.Millisecond)
			}
			assert.Zero(t, live.Status().Failed)
		})
	}
}

// Kubernetes mounts a ConfigMap as links: policies.yaml -> ..data/policies.yaml, ..data -> ..<time>, and swaps ..data.
func TestLive_followsTheLinksOfKubernetes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policies.yaml")
	publish := func(version string, data []byte) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		write(t, filepath.Join(dir, version, "policies.yaml"), data)
		require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	publish("..1", file(1, 10))
	require.NoError(t, os.Symlink("..data/policies.yaml", path))
	live, _ := open(t, path)
	watch(t, live)
	for i, c := range []domain.Tokens{11, 12} {
		publish(fmt.Sprintf("..%d", i+2), file(1, c))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..%d", i+1))))
		require.Eventually(t, func() bool { return capacity(live) == c }, patience, time.Millisecond)
	}
}

func TestLive_followsALinkIntoAnotherFolder(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "shared.yaml")
	write(t, elsewhere, file(1, 10))
	path := filepath.Join(t.TempDir(), "policies.yaml")
	require.NoError(t, os.Symlink(elsewhere, path))
	live, _ := open(t, path)
	watch(t, live)
	write(t, elsewhere, file(1, 11))
	require.Eventually(t, func() bool { return capacity(live) == 11 }, patience, time.Millisecond)
}

func TestLive_brokenFileChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policies.yaml")
	write(t, path, file(3, 10))
	live, logs := open(t, path)
	watch(t, live)
	before := live.All()
	write(t, path, []byte("policies:\n  - name: A\n    limits: [ { rate: 5/s, capacity: 0 } ]\n"))
	require.Eventually(t, func() bool { return live.Status().Failed > 0 }, patience, time.Millisecond)
	assert.Equal(t, before, live.All())
	logged := logs.FilterMessage("Policies are not reloaded: the earlier policies stay in force").All()
	require.NotEmpty(t, logged)
	assert.Equal(t, []any{
		`2:11: policies[0].name: "A": must match [a-z0-9][a-z0-9_-]{0,62}`,
		`3:38: policies[0].limits[0].capacity: 0: must be from 1 to 1000000000000`,
	}, logged[len(logged)-1].ContextMap()["errors"])

	require.NoError(t, os.Remove(path))
	failed := live.Status().Failed
	require.Eventually(t, func() bool { return live.Status().Failed > failed }, patience, time.Millisecond)
	assert.Equal(t, before, live.All(), "nor does a missing one")

	write(t, path, file(1, 11))
	require.Eventually(t, func() bool { return len(live.All()) == 1 }, patience, time.Millisecond)
	assert.Equal(t, uint64(1), live.Status().Reloaded)
}

func TestOpen_refusesABrokenFile(t *testing.T) {
	_, err := policyfile.Open("testdata/broken/mode.yaml", "", zap.NewNop())
	var errs policyfile.Errors
	require.ErrorAs(t, err, &errs)
}

// Requests see the old policies or the new ones, and a thousand changes leak nothing.
func TestLive_aThousandReloadsUnderLoad(t *testing.T) {
	before := goleak.IgnoreCurrent()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	write(t, path, file(20, 1))
	live, _ := open(t, path)
	var readers sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	readers.Go(func() { live.Watch(ctx) })
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				p, _ := live.Match(&policy.Request{Path: "/p19"})
				all := live.All()
				if p == nil || p.Name != "p19" || all[0].Limits[0].Capacity() != all[19].Limits[0].Capacity() {
					assert.Fail(t, "a request saw no set, or a mixed one")
					return
				}
				time.Sleep(10 * time.Microsecond) // leaves CPU time for the reloads
			}
		})
	}
	for i := range 1000 {
		next := filepath.Join(filepath.Dir(path), "next")
		write(t, next, file(20, domain.Tokens(i%7+1)))
		require.NoError(t, os.Rename(next, path))
		require.NoError(t, live.Reload())
	}
	cancel()
	readers.Wait()
	status := live.Status()
	assert.GreaterOrEqual(t, status.Reloaded, uint64(1000))
	assert.Zero(t, status.Failed)
	assert.Equal(t, 20, status.Policies)
	goleak.VerifyNone(t, before)
}
