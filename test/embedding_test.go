package test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// readmeProgram returns the program in README, with other addresses.
func readmeProgram(t *testing.T, redis, listen string) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, program, found := strings.Cut(string(text), "```go\n")
	program, _, _ = strings.Cut(program, "```")
	require.True(t, found)
	for from, to := range map[string]string{"localhost:6379": redis, ":8090": listen} {
		require.Contains(t, program, `"`+from+`"`)
		program = strings.Replace(program, `"`+from+`"`, `"`+to+`"`, 1)
	}
	return program
}

// A new module requires the root package, from a copy of this module. README's program limits its net/http server.
func TestEmbedding_anEmptyModuleLimitsItsServer(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t))
	copied, program := filepath.Join(t.TempDir(), "velocity"), t.TempDir()
	copySources(t, "..", copied)
	require.NoError(t, os.WriteFile(filepath.Join(program, "main.go"), []byte(readmeProgram(t, redistest.Start(t).Addr, addr)), 0o600))
	run := func(args ...string) string {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = program, append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %s: %s", strings.Join(args, " "), out)
		return string(out)
	}
	run("mod", "init", "example.com/program")
	run("mod", "edit", "-replace", "github.com/velocity-limiter/velocity="+copied)
	run("get", "github.com/velocity-limiter/velocity@v0.0.0") // the copy has no versions to choose from
	run("build", "-o", "program", ".")
	inherited := run("list", "-m", "all")
	for _, module := range []string{"chromedp", "toxiproxy", "libopenapi", "porcupine", "zerolog", "throttled", "go-limiter"} {
		assert.NotContains(t, inherited, module, "only tests of test/integration and bench need it")
	}

	cmd := exec.Command(filepath.Join(program, "program"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		assert.Empty(t, stderr.String(), "Redis answers, so there is nothing to log")
	})
	client := harness.NewClient(t)
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, harness.Timeout, 10*time.Millisecond)
	statuses := map[int]int{}
	for range 30 {
		resp, err := client.Get("http://" + addr)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		statuses[resp.StatusCode]++
		assert.Equal(t, "10", resp.Header.Get("X-RateLimit-Limit"))
	}
	assert.GreaterOrEqual(t, statuses[http.StatusOK], 10)
	assert.Positive(t, statuses[http.StatusTooManyRequests], "%v", statuses)
}

// A program that imports the root package gets no server, and none of its libraries. A wrapper adds its own library alone.
func TestEmbedding_importsFewLibraries(t *testing.T) {
	root := []string{
		"github.com/cespare/xxhash", "github.com/maypok86/otter", "github.com/redis/go-redis", "go.uber.org/atomic", "golang.org/x/sys",
	}
	for pkg, more := range map[string][]string{
		"..":              nil,
		"../velocityhttp": nil,
		"../velocityfiber": {
			"github.com/gofiber/fiber", "github.com/valyala", "github.com/google/uuid", "github.com/klauspost/compress", "github.com/mattn",
			"github.com/rivo/uniseg", "github.com/molecule-man/go-brrr",
		},
		"../velocitygrpc": {"google.golang.org", "golang.org/x"},
	} {
		out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", pkg).Output()
		require.NoError(t, err)
		modules := strings.Fields(string(out))
		require.Contains(t, modules, "github.com/velocity-limiter/velocity")
		for _, module := range modules {
			allowed := slices.ContainsFunc(append(more, root...), func(prefix string) bool { return strings.HasPrefix(module, prefix) })
			assert.True(t, allowed || module == "github.com/velocity-limiter/velocity", "%s imports %s", pkg, module)
		}
	}
}

// copySources copies the files of a module, without its tests and nested modules.
func copySources(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bench" || d.Name() == "tools" || d.Name() == "test") {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		if !d.Type().IsRegular() || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, 0o600)
	}))
}
