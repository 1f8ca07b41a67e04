package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/accesslog"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/simulate"
)

const simulateUsage = `Usage: api simulate -policies FILE [-compare OTHER] LOG...

Replays access logs through policies, in the logs' own time, with the arithmetic that serves, and tells who would have
been denied. With -compare it tells, too, what OTHER would do otherwise.

Logs may be in Common or Combined Log Format, or JSON lines of nginx or Caddy, each plain or in gzip; - is standard
input. Several logs are merged by time. Policies in shadow mode are counted as if they were enforced.
`

// simulation is what the flags of the command say.
type simulation struct {
	policies, compare string
	logs              []string
	host              string
	paths             httpfiber.PathRules
	window            time.Duration
	top               int
	json              bool
	html, decisions   string
}

func (c *simulation) flags() *flag.FlagSet {
	f := newFlags("simulate", simulateUsage)
	f.StringVar(&c.policies, "policies", "", "the policy `file`")
	f.StringVar(&c.compare, "compare", "", "another policy `file`: what would it do otherwise?")
	f.StringVar(&c.host, "host", "", "the `name` of the host of lines that name none")
	f.BoolVar(&c.paths.EncodedSlashes, "encoded-slashes", false, encodedSlashesHelp)
	f.DurationVar(&c.window, "window", accesslog.DefaultWindow, "within what time the lines of a log may be out of order")
	f.IntVar(&c.top, "top", 10, "how many clients are named in each list")
	f.BoolVar(&c.json, "json", false, "print JSON, for programs")
	f.StringVar(&c.html, "html", "", "write a page with charts to this `file`, too")
	f.StringVar(&c.decisions, "decisions", "", "write every decision, a line of JSON each, to this `file`, too")
	return f
}

func (c *simulation) check() error {
	switch {
	case c.policies == "":
		return errors.New("-policies must name a file")
	case len(c.logs) == 0:
		return errors.New("a log must be named; - is standard input")
	case c.top < 0:
		return fmt.Errorf("-top: %d: must not be negative", c.top)
	}
	return nil
}

func runSimulate(ctx context.Context, args []string, s streams) int {
	var c simulation
	f := c.flags()
	rest, code, done := parseFlags(f, args, s)
	if done {
		return code
	}
	c.logs = rest
	if err := c.check(); err != nil {
		return s.misuse(f.Name(), err)
	}
	switch err := c.run(ctx, s); {
	case ctx.Err() != nil:
		return s.fail(errors.New("interrupted"))
	case err != nil:
		return s.failAll(err)
	}
	return exitOK
}

func (c *simulation) run(ctx context.Context, s streams) (err error) {
	replay := simulate.Replay{Clock: new(simulate.Clock), Top: c.top}
	var stores []*memstore.Store
	for _, file := range c.files() {
		store, side, sideErr := newSide(file, replay.Clock)
		if sideErr != nil {
			return sideErr
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		stores, replay.Sides = append(stores, store), append(replay.Sides, side)
	}
	logs, err := accesslog.Open(c.logs, s.in, accesslog.Config{NormalPath: c.paths.Normalize, Host: c.host, Window: c.window})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	stopWaiting := context.AfterFunc(ctx, func() { _ = logs.Close() }) // which Run may be doing for input
	defer stopWaiting()
	replay.Log = logs
	if c.decisions != "" {
		finish, listErr := listDecisions(c.decisions, c.files(), &replay)
		if listErr != nil {
			return listErr
		}
		defer func() { err = errors.Join(err, finish()) }()
	}
	stop := showProgress(ctx, s.err, logs)
	result, err := replay.Run(ctx)
	stop()
	if err != nil {
		return err
	}
	return c.report(s.out, newFindings(c, logs.Stats(), result, replay.Sides, stores))
}

// files are the policy files, one for each side.
func (c *simulation) files() []string {
	if c.compare == "" {
		return []string{c.policies}
	}
	return []string{c.policies, c.compare}
}

// maxSimulatedBuckets bounds the memory at some gigabytes; the report says so if it is reached.
const maxSimulatedBuckets = 50_000_000

// newSide puts together what serves, but for the clock.
func newSide(file string, clock *simulate.Clock) (*memstore.Store, simulate.Side, error) {
	set, err := loadPolicies(file)
	if err != nil {
		return nil, simulate.Side{}, err
	}
	store, err := memstore.NewWithClock(memstore.Config{MaxBuckets: maxSimulatedBuckets}, clock.Now)
	if err != nil {
		return nil, simulate.Side{}, err
	}
	limiter := app.NewRateLimiter(store, store, set, unobserved{})
	return store, simulate.Side{Limiter: limiter, Policies: set.All()}, nil
}

// report prints what was found.
func (c *simulation) report(out io.Writer, found *findings) error {
	if c.html != "" {
		if err := writeFile(c.html, found.writeHTML); err != nil {
			return err
		}
	}
	w := bufio.NewWriter(out)
	if c.json {
		if err := found.writeJSON(w); err != nil {
			return err
		}
	} else {
		found.writeText(w, c.top)
	}
	return w.Flush()
}

// writeFile writes a file by way of a buffer.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	return errors.Join(write(w), w.Flush(), f.Close())
}
