//go:build mutations

package mutation

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/measure"
)

// testTimeout bounds the tests of a mutation. Tests that do not end in time count as failed.
const testTimeout = 5 * time.Minute

// It takes minutes: `make mutation`.
func TestMutations_areKilled(t *testing.T) {
	copied := copyTree(t)
	var figures struct{ Killed, All int }
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			figures.All++
			require.True(t, m.kills(t, copied), "SURVIVED: the tests pass")
			figures.Killed++
		})
	}
	t.Logf("%d of %d killed", figures.Killed, figures.All)
	measure.Keep(t, "mutation", figures)
}

// copyTree copies the files that git tracks or does not ignore to a new directory.
func copyTree(t *testing.T) string {
	folder := t.TempDir()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	names, err := list.Output()
	require.NoError(t, err, "listing the tree")
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted but not committed
		}
		require.NoError(t, err)
		to := filepath.Join(folder, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o700))
		require.NoError(t, os.WriteFile(to, text, 0o600))
	}
	return folder
}

// kills applies the mutation, runs its tests, and restores the file. It reports whether the tests failed.
func (m *mutation) kills(t *testing.T, folder string) bool {
	path := filepath.Join(folder, m.file)
	original, err := os.ReadFile(path)
	require.NoError(t, err)
	mutated, err := m.mutate(original)
	require.NoError(t, err)
	defer func() { require.NoError(t, os.WriteFile(path, original, 0o600)) }()
	require.NoError(t, os.WriteFile(path, mutated, 0o600))
	binary := filepath.Join(folder, "mutant.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-trimpath", "-ldflags=-s -w", "-tags", "faults", "-o", binary, ".")
	build.Dir = filepath.Join(folder, m.pkg) // a package below test/integration is built by its own module
	out, err := build.CombinedOutput()
	require.NoError(t, err, "the mutated code does not compile:\n%s", out)
	test := exec.CommandContext(t.Context(), binary, "-test.timeout", testTimeout.String(), "-test.run", m.tests)
	test.Dir = build.Dir
	out, err = test.CombinedOutput()
	require.NotContains(t, string(out), "no tests to run", "no test has the name %s", m.tests)
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(t, err, &exit)
	}
	return err != nil
}
