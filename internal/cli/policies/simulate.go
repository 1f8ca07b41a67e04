package policies

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
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/simulate"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
)

// Simulate decides the requests of access logs again, by a policy file.
var Simulate = command.Command{
	Name: "simulate", Args: "-policies FILE LOG...", Purpose: "replay access logs to see which clients would have been denied",
	Usage: "-policies FILE [-compare OTHER] LOG...",
	Help: `Replays access logs through policies, in the logs' own time and with the arithmetic of the service, and reports which
clients would have been denied. With -compare it also reports what OTHER would decide differently.

Logs may be in Common or Combined Log Format, or JSON lines of nginx or Caddy, each plain or in gzip; - is standard
input. Several logs are merged by time. Policies in shadow mode are counted as if they were enforced. Concurrency limits are
not checked.
`,
	Define: func(f *flag.FlagSet) command.Action {
		var c simulateFlags
		f.StringVar(&c.policies, "policies", "", "the policy `file`")
		f.StringVar(&c.compare, "compare", "", "another policy `file` to compare with")
		f.StringVar(&c.host, "host", "", "the `name` of the host of lines that name none")
		definePathRules(f, &c.paths)
		f.DurationVar(&c.window, "window", accesslog.DefaultWindow, "how far the lines of a log may be out of order")
		f.IntVar(&c.top, "top", 10, "the number of clients in each list")
		f.BoolVar(&c.json, "json", false, "print JSON, for programs")
		f.StringVar(&c.html, "html", "", "also write a page with charts to this `file`")
		f.StringVar(&c.decisions, "decisions", "", "also write every decision to this `file`, a line of JSON each")
		return c.replay
	},
}

type simulateFlags struct {
	policies, compare string
	logs              []string
	host              string
	paths             cleanpath.Rules
	window            time.Duration
	top               int
	json              bool
	html, decisions   string
}

func (c *simulateFlags) check() error {
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

func (c *simulateFlags) replay(ctx context.Context, args []string, s command.Streams) error {
	c.logs = args
	if err := c.check(); err != nil {
		return command.UsageError{Err: err}
	}
	switch err := c.run(ctx, s); {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case err != nil:
		return command.ListError{Err: err}
	}
	return nil
}

func (c *simulateFlags) run(ctx context.Context, s command.Streams) (err error) {
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
	logs, err := accesslog.Open(c.logs, s.In, accesslog.Config{NormalPath: c.paths.Normalize, Host: c.host, Window: c.window})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	stopWaiting := context.AfterFunc(ctx, func() { _ = logs.Close() }) // Run may be waiting for input
	defer stopWaiting()
	replay.Log = logs
	if c.decisions != "" {
		finish, openErr := recordDecisions(c.decisions, c.files(), &replay)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, finish()) }()
	}
	stop := command.ShowProgress(ctx, s.Err, "reading", logs.Progress)
	result, err := replay.Run(ctx)
	stop()
	if err != nil {
		return err
	}
	return c.report(s.Out, newFindings(c, logs.Stats(), result, replay.Sides, stores))
}

// files are the policy files, one for each side.
func (c *simulateFlags) files() []string {
	if c.compare == "" {
		return []string{c.policies}
	}
	return []string{c.policies, c.compare}
}

// maxSimulatedBuckets bounds the memory of a side to a few gigabytes. The report mentions evictions.
const maxSimulatedBuckets = 50_000_000

// newSide composes a limiter like that of the service, with the clock of the replay.
func newSide(file string, clock *simulate.Clock) (*memstore.Store, simulate.Side, error) {
	set, err := loadPolicies(file)
	if err != nil {
		return nil, simulate.Side{}, err
	}
	store, err := memstore.NewWithClock(memstore.Config{MaxBuckets: maxSimulatedBuckets}, clock.Now)
	if err != nil {
		return nil, simulate.Side{}, err
	}
	limiter := app.NewRateLimiter(store, store, set, noObserver{})
	return store, simulate.Side{Limiter: limiter, Permits: limiter, Policies: set.All()}, nil
}

func (c *simulateFlags) report(out io.Writer, found *findings) error {
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

// writeFile creates a file and writes to it through a buffer.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	return errors.Join(write(w), w.Flush(), f.Close())
}
