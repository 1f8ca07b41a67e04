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

// row is one claim.
type row struct {
	id, claim, bar string
	// measure returns the figure, and whether it reaches the bar.
	measure func(b *bench) (measured string, ok bool, err error)
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

// notRunError says that a row cannot be measured here. Its text says why.
type notRunError string

func (e notRunError) Error() string { return string(e) }

// bench runs the tests that rows need, each once.
type bench struct {
	ctx    context.Context
	folder string // of the figures
	soak   time.Duration
	fuzz   string
	ran    map[string]error
}

func (b *bench) measure(r row) result {
	began := time.Now()
	fmt.Printf("%s %s ...\n", r.id, r.claim)
	measured, ok, err := r.measure(b)
	res := result{row: r, measured: measured, verdict: failed}
	var missing notRunError
	switch {
	case errors.As(err, &missing):
		res.measured, res.verdict = missing.Error(), notRun
	case err != nil:
		res.measured = strings.ReplaceAll(strings.TrimPrefix(measured+"; "+err.Error(), "; "), "\n", "; ")
	case ok:
		res.verdict = passed
	}
	res.took = time.Since(began)
	fmt.Printf("%s %s: %s (%v)\n", r.id, res.verdict, res.measured, res.took.Round(time.Second))
	return res
}

// run runs a command once, from the module's root; its output is shown if it fails. A name makes it one: what ran
// under it is not run again.
func (b *bench) run(name string, args ...string) error {
	if err, ran := b.ran[name]; ran {
		return err
	}
	cmd := exec.CommandContext(b.ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), measure.FolderVar+"="+b.folder, measure.ExactVar+"=1")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	if err == nil && noTest.Match(output.Bytes()) {
		err = errors.New("no test is called so")
	}
	if err != nil {
		fmt.Println(lastLines(output.String(), 60))
		err = fmt.Errorf("%s: %w", name, err)
	}
	b.ran[name] = err
	return err
}

// noTest is what go test says where a pattern has no test; it passes all the same.
var noTest = regexp.MustCompile(`no tests to run|no test files`)

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// test runs tests of a package; faults have a build tag.
func (b *bench) test(pkg, pattern string, flags ...string) error {
	args := append([]string{"go", "test", "-count=1", "-timeout", "0", "-tags", "faults", "-run", pattern, pkg}, flags...)
	return b.run("test "+pattern, args...)
}

const (
	faultsPkg = "./test/faults"
	endToEnd  = "./test"
)

// soaked runs the soak.
func (b *bench) soaked() (soakFigures, error) {
	err := b.test(faultsPkg, "^TestSoak$", "-soak.duration", b.soak.String())
	s, noFigures := figure[soakFigures](b, "soak", nil)
	if noFigures != nil || !s.Whole {
		return s, errors.Join(err, noFigures)
	}
	return s, nil // each row has its own bar
}

// faults runs every fault by itself, one after the other, and returns what was seen of each.
func (b *bench) faults() ([]faultFigures, error) {
	testErr := b.test(faultsPkg, "^TestFaults$") // each row has its own bar, but for faults without figures
	files, err := filepath.Glob(filepath.Join(b.folder, "fault-*.json"))
	if err != nil {
		return nil, err
	}
	var all []faultFigures
	for _, file := range files {
		f, err := figure[faultFigures](b, strings.TrimSuffix(filepath.Base(file), ".json"), nil)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	if len(all) < leastFaults {
		return all, testErr
	}
	return all, nil
}

// leastFaults is the bar of R05.
const leastFaults = 30

// figure reads what a test has kept. One that failed may have kept its figures, which are shown all the same.
func figure[T any](b *bench, name string, testErr error) (T, error) {
	var out T
	text, err := os.ReadFile(filepath.Join(b.folder, name+".json"))
	if err != nil {
		return out, errors.Join(testErr, err)
	}
	return out, errors.Join(testErr, json.Unmarshal(text, &out))
}

// The figures, as far as the rows need them.

type soakFigures struct {
	Seed                  uint64
	Whole                 bool // it came to its end, and no client got a wrong answer
	Decisions             int64
	Faults                int
	Kinds                 map[string]int
	Errs                  int64
	SlowestRecovery       time.Duration
	HeapBefore, HeapAfter float64
	Redis                 struct {
		Beyond, Gained, Doubled, Unjust int64
		Worst                           float64
	}
	Local         struct{ First []any }
	Before, After struct{ Goroutines, Files int }
}

type faultFigures struct {
	Kind     string
	Recovery time.Duration
	Forgets  struct {
		Times int
		Split time.Duration
	}
	Extra       int64
	ExtraOfMost float64
	Doubled     int64
	Unjust      int64
	Passed      bool
}

// ofBound is the tokens beyond the law, of those that the loss may cost. Without a loss it may cost none.
func (f *faultFigures) ofBound() float64 {
	if f.Extra > 0 && f.Forgets.Times == 0 && f.Forgets.Split == 0 {
		return math.Inf(1)
	}
	return f.ExtraOfMost
}
