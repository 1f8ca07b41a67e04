// Command mutation takes each handling of a failure out of a copy of the tree, and has the tests that are meant to notice
// notice. A mutation that they do not see has survived: what it takes out is not tested. One whose text is no longer there
// is an error, so that the list stays true.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// mutation is one handling taken out: the first text of the file is replaced by the second, and the tests must fail.
type mutation struct {
	name     string
	file     string
	from, to string
	pkg      string
	tests    string // a pattern of go test -run
}

// testTimeout is when tests that do not end have noticed, too.
const testTimeout = 5 * time.Minute

func main() {
	only := flag.String("only", "", "only mutations whose names match this pattern")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	copied, err := copyTree(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(copied) }()
	var survived []string
	all := 0
	for _, m := range mutations {
		if !wanted.MatchString(m.name) {
			continue
		}
		all++
		began := time.Now()
		killed, err := m.try(ctx, copied)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		verdict := "killed  "
		if !killed {
			verdict = "SURVIVED"
			survived = append(survived, m.name)
		}
		fmt.Printf("%s %s (%v)\n", verdict, m.name, time.Since(began).Round(time.Second))
	}
	fmt.Printf("mutation: %d of %d killed\n", all-len(survived), all)
	if err := keep(all-len(survived), all); err != nil {
		return err
	}
	if all == 0 {
		return fmt.Errorf("-only %q: no such mutation", only)
	}
	if len(survived) > 0 {
		return fmt.Errorf("survived: %s", strings.Join(survived, ", "))
	}
	return nil
}

// keep writes the figure down for the scoreboard; see package measure.
func keep(killed, all int) error {
	folder := os.Getenv("VELOCITY_MEASURE")
	if folder == "" {
		return nil
	}
	text := fmt.Sprintf(`{"Killed": %d, "All": %d}`, killed, all)
	return os.WriteFile(filepath.Join(folder, "mutation.json"), []byte(text), 0o600)
}

// copyTree copies what git knows of, and what it does not ignore, into a folder of its own.
func copyTree(ctx context.Context) (string, error) {
	folder, err := os.MkdirTemp("", "velocity-mutation-")
	if err != nil {
		return "", err
	}
	list, err := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return "", fmt.Errorf("listing the tree: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Clean(name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			return "", err
		}
		to := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(to, text, 0o600); err != nil {
			return "", err
		}
	}
	return folder, nil
}

// try makes the mutation, runs its tests, and takes it back. It reports whether they failed.
func (m *mutation) try(ctx context.Context, folder string) (killed bool, err error) {
	path := filepath.Join(folder, m.file)
	original, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return false, err
	}
	mutated, err := m.mutate(original)
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(path, mutated, 0o600); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.WriteFile(path, original, 0o600)) }()
	binary := filepath.Join(folder, "mutant.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-trimpath", "-ldflags=-s -w", "-tags", "faults", "-o", binary, m.pkg)
	build.Dir = folder
	if out, err := build.CombinedOutput(); err != nil {
		return false, fmt.Errorf("the mutant does not compile, which proves nothing:\n%s", out)
	}
	test := exec.CommandContext(ctx, binary, "-test.timeout", testTimeout.String(), "-test.run", m.tests)
	test.Dir = filepath.Join(folder, m.pkg)
	out, err := test.CombinedOutput()
	if bytes.Contains(out, []byte("no tests to run")) {
		return false, fmt.Errorf("no test is called %s", m.tests)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false, err
	}
	return err != nil, ctx.Err()
}

// mutate returns the text of the file without the handling.
func (m *mutation) mutate(text []byte) ([]byte, error) {
	if n := bytes.Count(text, []byte(m.from)); n != 1 {
		return nil, fmt.Errorf("%s holds the text %d times, not once: %q", m.file, n, m.from)
	}
	return bytes.Replace(text, []byte(m.from), []byte(m.to), 1), nil
}
