package test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tenLines is a program of somebody else's. The two lines that say where it listens are the test's.
const tenLines = `package main

import (
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocityhttp"
)

func main() {
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerHour(3)}})
	if err != nil {
		panic(err)
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	fmt.Println(ln.Addr())
	panic(http.Serve(ln, velocityhttp.Middleware(limiter)(hello)))
}
`

// An empty module gets the root package, from a copy of this one, and ten lines of code limit its net/http server.
func TestEmbedding_anEmptyModuleLimitsItsServer(t *testing.T) {
	copied, program := filepath.Join(t.TempDir(), "velocity"), t.TempDir()
	copySources(t, "..", copied)
	require.NoError(t, os.WriteFile(filepath.Join(program, "main.go"), []byte(tenLines), 0o600))
	run := func(args ...string) {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = program, append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %s: %s", strings.Join(args, " "), out)
	}
	run("mod", "init", "example.com/program")
	run("mod", "edit", "-replace", "github.com/velocity-limiter/velocity="+copied)
	run("get", "github.com/velocity-limiter/velocity@v0.0.0") // the copy has no versions to choose from
	run("build", "-o", "program", ".")

	cmd := exec.Command(filepath.Join(program, "program"))
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	client := newClient(t)
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		resp, err := client.Get("http://" + strings.TrimSpace(addr))
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, want, resp.StatusCode, "request %d: %s", i+1, body)
		assert.Equal(t, "3", resp.Header.Get("X-RateLimit-Limit"))
	}
}

// copySources copies what a module is made of, without its tests and the modules within.
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
