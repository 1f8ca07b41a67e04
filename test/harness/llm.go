package harness

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// StartLLM runs the stand-in for the server of a language model in deploy/llm, with these flags, on a free port, and returns
// its URL. The test's cleanup kills it. root is the repository.
func StartLLM(t *testing.T, root string, flags ...string) (url string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "standin")
	build := exec.Command("go", "build", "-o", binary, "./deploy/llm/standin")
	build.Dir = root
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	var stderr Output
	cmd := exec.Command(binary, append([]string{"-listen", "127.0.0.1:0"}, flags...)...) // no context: the cleanup ends it
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // the error is that it was killed
	})
	listening := regexp.MustCompile(`listening on (\S+)\n`)
	require.Eventually(t, func() bool { return listening.MatchString(stderr.String()) }, Timeout, Interval, "the stand-in does not start")
	return listening.FindStringSubmatch(stderr.String())[1]
}
