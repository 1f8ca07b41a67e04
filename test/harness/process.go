// Package harness runs the service as the end-to-end tests of both modules do: it builds the binary, starts it with
// settings on free ports, sends requests to it, and reads its log.
package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	// Timeout bounds every wait. It is long, because the machine may be busy with other tests.
	Timeout = 20 * time.Second
	// Interval is the time between two looks at a condition.
	Interval = 10 * time.Millisecond
)

// Binary is the path of the service, after Main has built it.
var Binary string

// Main builds the service from the repository at root, runs the tests of a package, and ends the process. A test binary
// that has the race detector builds the service with it: a race in it ends in a report on stderr, and the test fails.
func Main(m *testing.M, root string) {
	code, err := buildAndRun(m, root)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M, root string) (int, error) {
	dir, err := os.MkdirTemp("", "velocity-test-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	Binary = filepath.Join(dir, "velocity")
	build := exec.Command("go", "build", "-ldflags", "-X main.version=v0.0.0-test", "-o", Binary)
	if Race() {
		build.Args = append(build.Args, "-race")
	}
	build.Args = append(build.Args, "./cmd/api")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building the service: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// Race reports whether the tests run under the race detector.
func Race() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// Env is the environment of the service without any setting; never nil, which would mean ours. Under the race detector the service
// must not wait for a second when it ends, as it would by default.
func Env() []string {
	if Race() {
		return []string{"GORACE=atexit_sleep_ms=0"}
	}
	return []string{}
}

// Settings are environment variables of the service. It gets no others but those that Start sets.
type Settings map[string]string

// Process is one running service.
type Process struct {
	T      *testing.T // the test that started it
	URL    string     // of the data plane
	Admin  string     // URL of the admin plane
	Client *http.Client
	Cmd    *exec.Cmd
	Stdout Output
	Stderr Output

	exited chan struct{}
}

// Start runs the service on free ports, without a drain period, and returns when it serves. The test's cleanup kills it.
func Start(t *testing.T, vars Settings) *Process {
	t.Helper()
	return StartWith(t, vars, (*exec.Cmd).Start)
}

// StartWith is Start, but the process is started by begin.
func StartWith(t *testing.T, vars Settings, begin func(*exec.Cmd) error) *Process {
	t.Helper()
	p := launch(t, vars, begin)
	var started []map[string]any
	require.Eventually(t, func() bool {
		started = p.LogLines("Started")
		return len(started) > 0 || p.HasExited()
	}, Timeout, Interval, "the service does not start")
	require.NotEmpty(t, started, "the service ended at once: %s", p.Stderr.String())
	p.URL = "http://" + started[0]["addr"].(string)
	p.Admin = "http://" + started[0]["adminAddr"].(string)
	return p
}

// Launch is Start without waiting: the addresses are unknown.
func Launch(t *testing.T, vars Settings) *Process {
	t.Helper()
	return launch(t, vars, (*exec.Cmd).Start)
}

func launch(t *testing.T, vars Settings, begin func(*exec.Cmd) error) *Process {
	t.Helper()
	p := &Process{T: t, exited: make(chan struct{}), Client: NewClient(t)}
	p.Cmd = exec.Command(Binary) // no context: the cleanup ends it
	p.Cmd.Env = append(Env(), "VELOCITY_HTTP_ADDR=127.0.0.1:0", "VELOCITY_ADMIN_ADDR=127.0.0.1:0", "VELOCITY_HTTP_DRAIN_PERIOD=0s")
	for name, value := range vars {
		p.Cmd.Env = append(p.Cmd.Env, name+"="+value)
	}
	p.Cmd.Stdout, p.Cmd.Stderr = &p.Stdout, &p.Stderr
	require.NoError(t, begin(p.Cmd))
	go func() {
		_ = p.Cmd.Wait() // the code is read from the state
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.Cmd.Process.Kill()
		<-p.exited
		assert.NotContains(t, p.Stderr.String(), "DATA RACE")
		if t.Failed() {
			t.Logf("end of the service's log:\n%s%s", p.Stdout.Tail(4096), p.Stderr.Tail(4096))
		}
	})
	return p
}

// HasExited reports whether the process has ended.
func (p *Process) HasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Signal sends a signal to the process.
func (p *Process) Signal(sig syscall.Signal) {
	p.T.Helper()
	require.NoError(p.T, p.Cmd.Process.Signal(sig))
}

// Wait waits for the end of the process and returns the exit code; -1 if a signal ended it.
func (p *Process) Wait() int {
	p.T.Helper()
	select {
	case <-p.exited:
	case <-time.After(Timeout):
		require.Fail(p.T, "the service does not end")
	}
	return p.Cmd.ProcessState.ExitCode()
}

// Stop ends the service by SIGTERM. Its log is complete afterwards.
func (p *Process) Stop() {
	p.T.Helper()
	p.Signal(syscall.SIGTERM)
	require.Equal(p.T, 0, p.Wait(), "exit code")
	assert.Empty(p.T, p.Stderr.String(), "the service writes its log, to stdout, and nothing else")
}

// LogLines returns the complete lines of the log that have this message, so far.
func (p *Process) LogLines(msg string) []map[string]any {
	p.T.Helper()
	var found []map[string]any
	for text := range strings.Lines(p.Stdout.String()) {
		if !strings.HasSuffix(text, "\n") {
			break // not complete yet
		}
		var line map[string]any
		require.NoError(p.T, json.Unmarshal([]byte(text), &line), "a line of the log is not JSON: %s", text)
		if line["msg"] == msg {
			found = append(found, line)
		}
	}
	return found
}

// Output is what a program has written so far.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write adds to it.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// Block makes writers wait until unblock is called.
func (o *Output) Block() (unblock func()) {
	o.mu.Lock()
	return sync.OnceFunc(o.mu.Unlock)
}

// String returns all of it.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Tail returns the last n bytes.
func (o *Output) Tail(n int) string {
	s := o.String()
	return s[max(0, len(s)-n):]
}

// WriteFile writes a file to a folder of the test, and returns its path.
func WriteFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}
