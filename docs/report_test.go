package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sources returns the Go files of the repository: the tests or the others.
func sources(t *testing.T, tests bool) string {
	t.Helper()
	var all strings.Builder
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") != tests {
			return err
		}
		text, err := os.ReadFile(filepath.Clean(path))
		all.Write(text)
		return err
	}))
	return all.String()
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Clean(path))
	require.NoError(t, err)
	return string(text)
}

func TestReport_hasItsSectionsAndConclusion(t *testing.T) {
	report := read(t, "../REPORT.md")
	for _, text := range []string{
		"# Velocity: Technical Report\n",
		"\n## 1. System Architecture and Request Flow\n",
		"\n## 2. Core Engineering: Atomicity and Concurrency Control\n",
		"\n## 3. Scalability and Distributed Design\n",
		"\n## 4. Empirical Verification Summary\n",
		"\nThe test successfully verified that the system allowed exactly 10 requests, confirming the perfect atomicity and " +
			"integrity of the Lua script execution under maximal contention.\n",
	} {
		assert.Contains(t, report, text)
	}
}

// REPORT.md, the reliability report and the mutations name tests, mostly as patterns of go test -run.
func TestNamedTests_exist(t *testing.T) {
	tests := sources(t, true) + sources(t, false) // package porttest has no _test.go files
	pattern := regexp.MustCompile(`\b(Test[A-Z]\w*)(\$|\(([\w|]+)\))?`)
	for _, path := range []string{"REPORT.md", "test/reliability/rows.go", "test/reliability/run.go", "test/mutation/list_test.go"} {
		named := pattern.FindAllStringSubmatch(read(t, filepath.Join("..", path)), -1)
		require.NotEmpty(t, named, path)
		for _, match := range named {
			end := ""
			if match[2] == "$" {
				end = "("
			}
			for _, rest := range strings.Split(match[3], "|") {
				if name := match[1] + rest + end; !strings.Contains(tests, "\nfunc "+name) {
					t.Errorf("%s names %s, which does not exist", path, name)
				}
			}
		}
	}
}

// The table of REPORT.md names the package beside each test, and some commands name one.
func TestReport_namesThePackagesOfTests(t *testing.T) {
	report := read(t, "../REPORT.md")
	named := regexp.MustCompile("`(Test\\w+)`, `((?:internal|test)[\\w/]*)`").FindAllStringSubmatch(report, -1)
	require.NotEmpty(t, named)
	for _, match := range named {
		files, err := filepath.Glob(filepath.Join("..", match[2], "*_test.go"))
		require.NoError(t, err)
		found := false
		for _, file := range files {
			found = found || strings.Contains(read(t, file), "\nfunc "+match[1])
		}
		assert.True(t, found, "%s is not in %s", match[1], match[2])
	}
	for _, match := range regexp.MustCompile(`(cd (\w+) && )?go test [^`+"`\n"+`]*\./([\w/]+)`).FindAllStringSubmatch(report, -1) {
		assert.DirExists(t, filepath.Join("..", match[2], match[3]))
	}
}

func TestFailures_listsMessagesOfTheCode(t *testing.T) {
	code := sources(t, false)
	_, section, found := strings.Cut(read(t, "failures.md"), "\n## What the log says\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	messages := regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(section, -1)
	require.Len(t, messages, 14)
	for _, message := range messages {
		if !strings.Contains(code, `"`+message[1]+`"`) {
			t.Errorf("no code logs %q of failures.md", message[1])
		}
	}
}
