// Package test is end to end: it builds the real binary, runs it as an operator would, against real Redis servers,
// and looks at it from outside alone. Beside it stand the two tests of the limiter that a reader looks for first.
package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the service, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "velocity-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if binary, err = build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func build(dir string) (string, error) {
	path := filepath.Join(dir, "api")
	args := append([]string{"build", "-ldflags", "-X main.version=v0.0.0-test", "-o", path}, raceFlags...)
	cmd := exec.Command("go", append(args, "../cmd/api")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the service: %w\n%s", err, out)
	}
	return path, nil
}
