package process_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/process"
)

func TestCPUTime_agreesWithTheProcessItself(t *testing.T) {
	before := process.OwnCPUTime()
	for process.OwnCPUTime()-before < 20*time.Millisecond {
	}
	byPid, err := process.CPUTime(os.Getpid())
	require.NoError(t, err)
	after := process.OwnCPUTime()
	assert.Greater(t, byPid, before+20*time.Millisecond)
	assert.LessOrEqual(t, byPid, after)
}

func TestCPUTime_ofAProcessThatIsGone(t *testing.T) {
	_, err := process.CPUTime(1 << 22) // above the kernel's largest pid
	assert.Error(t, err)
}

func TestStart_pinsRunsAndStops(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := process.Start(process.Spec{
		Path: "sh", Args: []string{"-c", `echo "$WORD"; exec sleep 60`}, Env: []string{"WORD=hello"}, LogPath: log, CPUs: "0",
	})
	require.NoError(t, err)
	err = p.WaitReady(t.Context(), func() error {
		if text, _ := os.ReadFile(log); string(text) != "hello\n" {
			return errors.New("no greeting yet")
		}
		return nil
	})
	require.NoError(t, err)
	_, err = process.CPUTime(p.Pid())
	require.NoError(t, err)
	require.NoError(t, p.Stop())
	_, err = process.CPUTime(p.Pid())
	assert.Error(t, err, "the process has ended")
}

func TestWaitReady_showsTheLogOfAChildThatExits(t *testing.T) {
	p, err := process.Start(process.Spec{
		Path: "sh", Args: []string{"-c", "echo cannot bind; exit 3"}, LogPath: filepath.Join(t.TempDir(), "log"),
	})
	require.NoError(t, err)
	err = p.WaitReady(t.Context(), func() error { return errors.New("not yet") })
	require.ErrorContains(t, err, "cannot bind")
	assert.ErrorContains(t, err, "exit status 3")
}
