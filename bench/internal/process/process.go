// Package process starts and stops the servers that a measurement needs and reads the CPU time they have used.
package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// Spec says what to start.
type Spec struct {
	Path string
	Args []string
	// Env is added to the environment of this process.
	Env []string
	// LogPath receives standard output and standard error: a file, as a service's log usually is, so that writing it
	// costs what it costs in production.
	LogPath string
	// CPUs pins the process to these CPUs, in taskset's notation ("1", "0-2"). Empty: not pinned.
	CPUs string
}

// Process is a running child. Stop ends it.
type Process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed once the child was waited for
}

// Start starts the child. The caller stops it.
func Start(spec Spec) (*Process, error) {
	path, args := spec.Path, spec.Args
	if spec.CPUs != "" {
		args = append([]string{"-c", spec.CPUs, path}, args...)
		path = "taskset" // replaces itself with the program, so the pid is the program's
	}
	logFile, err := os.OpenFile(spec.LogPath, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", spec.Path, err)
	}
	defer logFile.Close() // the child has its own copy
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// A child outlives no parent, even one that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	p := &Process{cmd: cmd, log: spec.LogPath, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is of interest only while someone waits for it to be ready
		close(p.done)
	}()
	return p, nil
}

// Pid is the child's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// WaitReady calls ready until it returns nil. It fails, with the end of the child's log, when the child exits or
// ctx ends first.
func (p *Process) WaitReady(ctx context.Context, ready func() error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s exited (%s) before it was ready:\n%s", p.cmd.Path, p.cmd.ProcessState, p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready in time: %w:\n%s", p.cmd.Path, err, p.logTail())
		case <-tick.C:
		}
	}
}

// Stop asks the child to end, and kills it if it has not done so after five seconds.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.cmd.Path, err)
	}
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill() // it may have just ended
		<-p.done
	}
	return nil
}

func (p *Process) logTail() string {
	const most = 2048
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// FreeAddr returns an address on loopback that nothing listened on a moment ago.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// SplitPort returns the port of an address as FreeAddr gives it.
func SplitPort(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic("process: not an address: " + strconv.Quote(addr))
	}
	return port
}
