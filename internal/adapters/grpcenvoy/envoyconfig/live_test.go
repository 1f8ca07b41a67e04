package envoyconfig_test

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
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// patience bounds every wait. It is long because other tests may slow the machine down.
const patience = 20 * time.Second

// perDay is a file of one domain with one rule.
func perDay(domain string, n int) string {
	return fmt.Sprintf("{domain: %s, descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: %d}}]}\n", domain, n)
}

func write(t *testing.T, text string, path ...string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(path...), []byte(text), 0o600))
}

// watch opens path, and follows it until the test ends.
func watch(t *testing.T, path string) (*envoyconfig.Live, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	live, err := envoyconfig.Open(path, envoyconfig.Options{OnStoreFailure: policy.FailOpen}, zap.New(core))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { live.Watch(ctx) })
	t.Cleanup(func() {
		cancel()
		ended.Wait()
	})
	return live, logs
}

// becomes waits until the rule of a domain is want.
func becomes(t *testing.T, live *envoyconfig.Live, domain, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return verdict(live.Current().Find(domain, entries("k=v"))) == want },
		patience, time.Millisecond, "%s does not become %s", domain, want)
}

func TestLive_followsAFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "rules.yaml")
	write(t, perDay("a", 1), path)
	live, _ := watch(t, path)
	write(t, perDay("a", 2), path)
	becomes(t, live, "a", "2/day")
	write(t, perDay("a", 3), dir, ".rules.yaml.swp")
	require.NoError(t, os.Rename(filepath.Join(dir, ".rules.yaml.swp"), path))
	becomes(t, live, "a", "3/day")
}

func TestLive_followsTheFilesOfAFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, perDay("a", 1), dir, "a.yaml")
	live, _ := watch(t, dir)
	before := live.Current().Version()
	write(t, perDay("a", 2), dir, "a.yaml")
	becomes(t, live, "a", "2/day")
	assert.NotEqual(t, before, live.Current().Version())
	write(t, perDay("b", 3), dir, "b.yaml")
	becomes(t, live, "b", "3/day")
	require.NoError(t, os.Remove(filepath.Join(dir, "a.yaml")))
	becomes(t, live, "a", "none")
	becomes(t, live, "b", "3/day")
	require.NoError(t, os.Rename(filepath.Join(dir, "b.yaml"), filepath.Join(dir, "b.off")))
	require.Eventually(t, func() bool { return live.Attempts().Failed > 0 }, patience, time.Millisecond)
	becomes(t, live, "b", "3/day")
}

// Kubernetes mounts a ConfigMap as links: rules.yaml -> ..data/rules.yaml, ..data -> ..<time>, and swaps ..data. The setting may
// name the folder, or the file in it.
func TestLive_followsTheLinksOfKubernetes(t *testing.T) {
	for _, name := range []string{"", "rules.yaml"} {
		t.Run("path "+name, func(t *testing.T) {
			dir := t.TempDir()
			publish := func(n int) {
				version := fmt.Sprintf("..%d", n)
				require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
				write(t, perDay("a", n), dir, version, "rules.yaml")
				require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
				require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
			}
			publish(1)
			require.NoError(t, os.Symlink("..data/rules.yaml", filepath.Join(dir, "rules.yaml")))
			live, _ := watch(t, filepath.Join(dir, name))
			for n := 2; n <= 4; n++ {
				publish(n)
				require.NoError(t, os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..%d", n-1))))
				becomes(t, live, "a", fmt.Sprintf("%d/day", n))
			}
		})
	}
}

// A deployment may replace the whole folder: current -> 1 becomes current -> 2.
func TestLive_followsALinkToAFolder(t *testing.T) {
	dir := t.TempDir()
	current := filepath.Join(dir, "current")
	for n := 1; n <= 3; n++ {
		version := fmt.Sprint(n)
		require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		write(t, perDay("a", n), dir, version, "rules.yaml")
	}
	require.NoError(t, os.Symlink("1", current))
	live, _ := watch(t, current)
	for n := 2; n <= 3; n++ {
		require.NoError(t, os.Symlink(fmt.Sprint(n), current+".next"))
		require.NoError(t, os.Rename(current+".next", current))
		becomes(t, live, "a", fmt.Sprintf("%d/day", n))
	}
}

// One broken file keeps the old rules of all files, and the log has every error with file and line.
func TestLive_brokenFileChangesNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, perDay("a", 1), dir, "a.yaml")
	write(t, perDay("b", 1), dir, "b.yaml")
	live, logs := watch(t, dir)
	before := live.Current()
	write(t, "domain: b\ndescriptors:\n  - key: k\n    quota_mode: true\n  - {key: l, rate_limit: {unit: eon}}\n", dir, "b.yaml")
	require.Eventually(t, func() bool { return live.Attempts().Failed > 0 }, patience, time.Millisecond)
	write(t, perDay("a", 2), dir, "a.yaml")
	require.Eventually(t, func() bool { return live.Attempts().Failed > 1 }, patience, time.Millisecond)
	assert.Same(t, before, live.Current())
	assert.True(t, live.Attempts().Stale)
	logged := logs.FilterMessage("Envoy's rules are not reloaded: the earlier rules stay in force").All()
	require.NotEmpty(t, logged)
	file := filepath.Join(dir, "b.yaml")
	errs, _ := logged[0].ContextMap()["errors"].([]any)
	require.Len(t, errs, 2)
	assert.Contains(t, errs[0], file+":4:5: quota_mode: true is not supported")
	assert.Contains(t, errs[1], file+":5:27: unit: ")

	write(t, perDay("b", 3), dir, "b.yaml")
	becomes(t, live, "b", "3/day")
	becomes(t, live, "a", "2/day")
	assert.False(t, live.Attempts().Stale)
}
