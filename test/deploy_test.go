package test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every file under deploy/ is named by a test, or in the paragraph of its folder's README that says what was not run.
func TestDeploy_everyExampleIsTestedOrSaysWhyNot(t *testing.T) {
	tests := filesUnder(t, "..", func(path string) bool {
		return strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "../test/harness/")
	})
	folders := map[string]bool{}
	for path := range filesUnder(t, "../deploy", func(path string) bool { return filepath.Base(path) != "README.md" }) {
		path = strings.TrimPrefix(path, "../")
		parts := strings.Split(path, "/")
		folders[parts[1]] = true
		assert.True(t, isNamed(tests, path) || saysNotRun(t, "../deploy/"+parts[1], parts[len(parts)-1]), path)
	}
	require.Greater(t, len(folders), 8)
}

// isNamed reports whether a test names the file: by its path, by a folder inside its example, or by the folder of its example and its name.
func isNamed(tests map[string]string, path string) bool {
	parts := strings.Split(path, "/")
	example, name := strings.Join(parts[:2], "/"), parts[len(parts)-1]
	for _, text := range tests {
		if strings.Contains(text, path) || strings.Contains(text, example) && strings.Contains(text, `"`+name+`"`) {
			return true
		}
		for n := 3; n < len(parts); n++ {
			if strings.Contains(text, strings.Join(parts[:n], "/")) {
				return true
			}
		}
	}
	return false
}

func saysNotRun(t *testing.T, example, name string) bool {
	t.Helper()
	text, err := os.ReadFile(example + "/README.md")
	if err != nil {
		return false // none of a file beside the folders, and none where tests name all files
	}
	for paragraph := range strings.SplitSeq(string(text), "\n\n") {
		if strings.Contains(paragraph, "not run") && strings.Contains(paragraph, name) {
			return true
		}
	}
	return false
}

// filesUnder reads the files whose paths are wanted.
func filesUnder(t *testing.T, root string, wanted func(path string) bool) map[string]string {
	t.Helper()
	texts := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !wanted(path) {
			return err
		}
		text, err := os.ReadFile(path)
		texts[path] = string(text)
		return err
	}))
	return texts
}
