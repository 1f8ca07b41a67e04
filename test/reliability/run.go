package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/test/measure"
)

// row is one claim with its target.
type row struct {
	id, claim, target string
	// measure returns the figure, and whether it reaches the target.
	measure func(r *runner) (measured string, ok bool, err error)
}

type verdict string

const (
	passed verdict = "pass"
	failed verdict = "FAIL"
	notRun verdict = "not run"
)

type result struct {
	row
	measured string
	verdict  verdict
	took     time.Duration
}

// notRunError means that a row cannot be measured here. Its text is the reason.
type notRunError string

func (e notRunError) Error() string { return string(e) }

// runner runs the tests that the rows need, each once.
type runner struct {
	ctx    context.Context
	folder string // receives the figures
	soak   time.Duration
	fuzz   string
	ran    map[string]error
}

func (r *runner) measure(row row) result {
	began := time.Now()
	fmt.Printf("%s %s ...\n", row.id, row.claim)
	measured, ok, err := row.measure(r)
	res := result{row: row, measured: measured, verdict: failed}
	var reason notRunError
	switch {
	case errors.As(err, &reason):
		res.measured, res.verdict = reason.Error(), notRun
	case err != nil:
		res.measured = strings.ReplaceAll(strings.TrimPrefix(measured+"; "+err.Error(), "; "), "\n", "; ")
	case ok:
		res.verdict = passed
	}
	res.took = time.Since(began)
	fmt.Printf("%s %s: %s (%v)\n", row.id, res.verdict, res.measured, res.took.Round(time.Second))
	return res
}

// run runs a command from the root of the repository, and prints its output if it fails. A second call with the same
// name returns the result of the first.
func (r *runner) run(name string, args ...string) error {
	if err, ran := r.ran[name]; ran {
		return err
	}
	cmd := exec.CommandContext(r.ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), measure.FolderVar+"="+r.folder, measure.ExactVar+"=1")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	if err == nil && noTest.Match(output.Bytes()) {
		err = errors.New("no test has this name")
	}
	if err != nil {
		fmt.Println(lastLines(output.String(), 60))
		err = fmt.Errorf("%s: %w", name, err)
	}
	r.ran[name] = err
	return err
}

// noTest matches the output of go test for a pattern without a test. Its exit status is 0 then.
var noTest = regexp.MustCompile(`no tests to run|no test files`)

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// test runs tests of a package, including those with the build tag faults.
func (r *runner) test(pkg, pattern string, flags ...string) error {
	args := append([]string{"go", "-C", pkg, "test", "-count=1", "-timeout", "0", "-tags", "faults,mutations", "-run", pattern, "."}, flags...)
	return r.run("test "+pattern, args...)
}

const (
	faultsPkg = "./test/integration/faults"
	endToEnd  = "./test"
)

// runSoak runs the soak.
func (r *runner) runSoak() (soakFigures, error) {
	err := r.test(faultsPkg, "^TestSoak$", "-soak.duration", r.soak.String())
	s, readErr := figure[soakFigures](r, "soak", nil)
	if readErr != nil || !s.Completed {
		return s, errors.Join(err, readErr)
	}
	return s, nil // each row checks its own target
}

// runFaults runs every fault by itself, one after the other, and returns the figures of each. Each row checks its own
// target, so a failed test is an error only if figures are missing.
func (r *runner) runFaults() ([]faultFigures, error) {
	testErr := r.test(faultsPkg, "^TestFaults$")
	files, err := filepath.Glob(filepath.Join(r.folder, "fault-*.json"))
	if err != nil {
		return nil, err
	}
	var all []faultFigures
	for _, file := range files {
		f, err := figure[faultFigures](r, strings.TrimSuffix(filepath.Base(file), ".json"), nil)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	if len(all) < minFaults {
		return all, testErr
	}
	return all, nil
}

// minFaults is the target of R05.
const minFaults = 30

// figure reads the figures of a test. It returns them also if the test failed after it had written them.
func figure[T any](r *runner, name string, testErr error) (T, error) {
	var out T
	text, err := os.ReadFile(filepath.Join(r.folder, name+".json"))
	if err != nil {
		return out, errors.Join(testErr, err)
	}
	return out, errors.Join(testErr, json.Unmarshal(text, &out))
}

// The figures of the tests. Members that no row needs are left out.

type soakFigures struct {
	Seed                  uint64
	Completed             bool // the soak reached its end, and no client got a wrong answer
	Decisions             int64
	Faults                int
	Kinds                 map[string]int
	SlowestRecovery       time.Duration
	HeapBefore, HeapAfter float64
	Redis                 struct {
		BeyondBound, DoubleDebited, FalseDenials int64
		ShareOfBound                             float64
	}
	Local         struct{ First []any }
	Before, After struct{ Goroutines, Files int }
}

type faultFigures struct {
	Kind     string
	Recovery time.Duration
	Loss     struct {
		Times int
		Split time.Duration
	}
	Extra         int64
	ShareOfBound  float64
	DoubleDebited int64
	FalseDenials  int64
	Passed        bool
}

// share returns the extra tokens as a share of what the loss of data allows. Without a loss no token may be extra.
func (f *faultFigures) share() float64 {
	if f.Extra > 0 && f.Loss.Times == 0 && f.Loss.Split == 0 {
		return math.Inf(1)
	}
	return f.ShareOfBound
}
