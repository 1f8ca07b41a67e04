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
)

func TestSimulate_aBarOnATerminal(t *testing.T) {
	f := newFolder(t, map[string]string{"p.yaml": strict})
	terminal, line := newTerminal(t)
	cmd := exec.CommandContext(t.Context(), binary, "simulate", "-policies", "p.yaml", "-")
	cmd.Dir, cmd.Env, cmd.Stderr = f.dir, []string{}, line
	var out bytes.Buffer
	cmd.Stdout = &out
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, line.Close())
	shown := make(chan struct{})
	go func() {
		seen, part := "", make([]byte, 512)
		for told := false; ; {
			n, err := terminal.Read(part)
			if seen += string(part[:n]); !told && strings.Contains(seen, "reading") {
				told = true
				close(shown)
			}
			if err != nil {
				return
			}
		}
	}()
	_, err = io.WriteString(stdin, visits("192.0.2.1", 2))
	require.NoError(t, err)
	select {
	case <-shown:
	case <-time.After(patience):
		require.Fail(t, "no bar")
	}
	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait())
	assert.Contains(t, out.String(), "2 requests")
}

// newTerminal returns both ends of a terminal: what a person sees, and what a program writes to.
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
