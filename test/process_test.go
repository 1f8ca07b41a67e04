package test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	// patience bounds every wait. A machine that is busy with other tests is slow.
	patience = 20 * time.Second
	tick     = 10 * time.Millisecond
)

// settings are environment variables.
type settings map[string]string

// process is one running service.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout transcript
	stderr transcript
	exited chan struct{}
	client *http.Client

	url   string // of the data plane
	admin string // of the admin plane
}

// start runs the service on free ports, without a drain period, and returns when it serves. The test's cleanup kills it. Nothing of our own
// environment reaches it.
func start(t *testing.T, vars settings) *process {
	t.Helper()
	return startBy(t, vars, (*exec.Cmd).Start)
}

// startBy is start for a process that begins in another way.
func startBy(t *testing.T, vars settings, begin func(*exec.Cmd) error) *process {
	t.Helper()
	p := launchBy(t, vars, begin)
	var started map[string]any
	require.Eventually(t, func() bool {
		lines := p.logged("Started")
		if len(lines) > 0 {
			started = lines[0]
		}
		return started != nil || p.hasExited()
	}, patience, tick, "the service does not start")
	require.NotNil(t, started, "the service ended at once: %s", p.stderr.String())
	p.url = "http://" + started["addr"].(string)
	p.admin = "http://" + started["adminAddr"].(string)
	return p
}

// launch runs the service and waits for nothing.
func launch(t *testing.T, vars settings) *process {
	t.Helper()
	return launchBy(t, vars, (*exec.Cmd).Start)
}

func launchBy(t *testing.T, vars settings, begin func(*exec.Cmd) error) *process {
	t.Helper()
	p := &process{t: t, exited: make(chan struct{}), client: newClient(t)}
	p.cmd = exec.Command(binary) // no context: the cleanup ends it
	p.cmd.Env = []string{
		"VELOCITY_HTTP_ADDR=127.0.0.1:0", "VELOCITY_ADMIN_ADDR=127.0.0.1:0", "VELOCITY_HTTP_DRAIN_PERIOD=0s",
	}
	for name, value := range vars {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	require.NoError(t, begin(p.cmd))
	go func() {
		_ = p.cmd.Wait() // the code is read from the state
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("end of the service's log:\n%s%s", p.stdout.end(4096), p.stderr.end(4096))
		}
	})
	return p
}

// newClient keeps no connection beyond its test, and has room for many at once.
func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: underContract{t, transport}, Timeout: patience}
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(sig))
}

// wait returns the exit code; -1 if a signal ended the process.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		require.Fail(p.t, "the service does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the service in the orderly way, after which its log is complete.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	require.Equal(p.t, 0, p.wait(), "exit code")
	assert.Empty(p.t, p.stderr.String(), "nothing but the log is written, and that to stdout")
}

// logged returns the log's lines with this message, so far.
func (p *process) logged(msg string) []map[string]any {
	p.t.Helper()
	var found []map[string]any
	for _, text := range strings.SplitAfter(p.stdout.String(), "\n") {
		if !strings.HasSuffix(text, "\n") {
			break // not yet whole
		}
		var line map[string]any
		require.NoError(p.t, json.Unmarshal([]byte(text), &line), "a line of the log is not JSON: %s", text)
		if line["msg"] == msg {
			found = append(found, line)
		}
	}
	return found
}

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   string
}

// json decodes the body.
func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var out map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.body), &out), "body %q", a.body)
	return out
}

// ask sends a request. Header lines are "Name: value".
func (p *process) ask(method, url, body string, headers ...string) (answer, error) {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, url, reader)
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text)}, err
}

// mustAsk is ask for the test's own goroutine.
func (p *process) mustAsk(method, url, body string, headers ...string) answer {
	p.t.Helper()
	a, err := p.ask(method, url, body, headers...)
	require.NoError(p.t, err)
	return a
}

// resource asks for the protected resource.
func (p *process) resource(headers ...string) answer {
	p.t.Helper()
	return p.mustAsk(http.MethodGet, p.url+"/api/resource", "", headers...)
}

// transcript is what a process has written so far.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(b)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// end is the last n bytes.
func (t *transcript) end(n int) string {
	s := t.String()
	return s[max(0, len(s)-n):]
}
