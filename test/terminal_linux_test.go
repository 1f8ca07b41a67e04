package test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/velocity-limiter/velocity/test/harness"
)

func TestSimulate_showsProgressOnATerminal(t *testing.T) {
	f := newFolder(t, map[string]string{"p.yaml": strict})
	terminal, line := newTerminal(t)
	cmd := exec.CommandContext(t.Context(), harness.Binary, "simulate", "-policies", "p.yaml", "-")
	cmd.Dir, cmd.Env, cmd.Stderr = f.dir, harness.Env(), line
	var out bytes.Buffer
	cmd.Stdout = &out
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, line.Close())
	shown := make(chan struct{})
	go func() {
		seen, part := "", make([]byte, 512)
		for closed := false; ; {
			n, err := terminal.Read(part)
			if seen += string(part[:n]); !closed && strings.Contains(seen, "reading") {
				closed = true
				close(shown)
			}
			if err != nil {
				return
			}
		}
	}()
	_, err = io.WriteString(stdin, accessLog("192.0.2.1", 2))
	require.NoError(t, err)
	select {
	case <-shown:
	case <-time.After(harness.Timeout):
		require.Fail(t, "no progress is shown")
	}
	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait())
	assert.Contains(t, out.String(), "2 requests")
}

func TestTerminal_logFormats(t *testing.T) {
	for format, want := range map[string]string{
		"": `(?m)^\d\d:\d\d:\d\d\.\d{3}  INFO  Started  \{"version": `, "json": `(?m)^\{"level":"info","time":"[^"]*","msg":"Started",`,
	} {
		terminal, line := newTerminal(t)
		cmd := exec.CommandContext(t.Context(), harness.Binary)
		cmd.Env = append(harness.Env(), "VELOCITY_HTTP_ADDR=127.0.0.1:0", "VELOCITY_ADMIN_ADDR=127.0.0.1:0", "VELOCITY_LOG_FORMAT="+format)
		cmd.Stdout, cmd.Stderr = line, line
		require.NoError(t, cmd.Start())
		require.NoError(t, line.Close())
		var seen strings.Builder
		for part := make([]byte, 512); !strings.Contains(seen.String(), "Started"); {
			n, err := terminal.Read(part)
			require.NoError(t, err, seen.String())
			seen.Write(part[:n])
		}
		assert.Regexp(t, want, seen.String())
		go func() { _, _ = io.Copy(io.Discard, terminal) }()
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		require.NoError(t, cmd.Wait())
	}
}

// newTerminal returns both ends of a terminal: the one that a person sees, and the one that a program writes to.
func newTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = person.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	return person, program
}
