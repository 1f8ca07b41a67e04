// Command bench measures Velocity beside its peers: in one run, on one machine, side by side.
//
//	go run . -quick              a short run that shows that everything works
//	go run . -out results        all measurements
//	go run . -only '^services/'  some measurements: a regular expression over "section/load/subject"
//	go run . -profile profiles   CPU profiles of Velocity's services, too
//
// It starts redis-servers and services on free ports and stops them at the end. It prints the tables, and writes
// report.md, report.json, front.md (the comparisons that come first) and the charts to a folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/chart"
	"github.com/velocity-limiter/velocity/bench/internal/machine"
	"github.com/velocity-limiter/velocity/bench/internal/redispeer"
	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/suite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	suite.Settings
	quick bool
	out   string
}

// parse reads the flags. Their set is not flag.CommandLine, which the testing package fills with its own.
func parse(args []string) (options, error) {
	o := options{Settings: suite.Settings{
		Warmup: time.Second, Clients: 100_000, ManyClients: 1_000_000, Connections: 256, GRPCConns: 2, InvariantTries: 3, Seed: 1, Progress: os.Stderr,
	}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "regular expression over section/load/subject: measure only these")
	flags.BoolVar(&o.quick, "quick", false, "a short run that shows that everything works; its figures mean nothing")
	flags.IntVar(&o.Rounds, "rounds", 3, "rounds; the tables show their medians")
	flags.DurationVar(&o.Duration, "duration", 2*time.Second, "length of each measurement")
	flags.BoolVar(&o.PinRedis, "pin", true, "keep the one Redis of the loads on the last CPU")
	flags.IntVar(&o.PeerPool, "peer-pool", redispeer.DefaultPoolSize, "connections to Redis of each peer in process")
	flags.StringVar(&o.Profiles, "profile", "", "folder for a CPU profile of each service of Velocity's, for go tool pprof; none if empty")
	flags.StringVar(&o.out, "out", "results", "folder for report.md, report.json, front.md and the charts")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.quick {
		o.Rounds, o.Duration, o.Warmup = 1, 200*time.Millisecond, 100*time.Millisecond
		o.Clients, o.ManyClients, o.InvariantTries = 10_000, 10_000, 1
	}
	if o.Rounds < 1 || o.Duration <= 0 {
		return o, errors.New("-rounds and -duration must be above zero")
	}
	if *only != "" {
		var err error
		if o.Only, err = regexp.Compile(*only); err != nil {
			return o, fmt.Errorf("-only: %w", err)
		}
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	r, err := suite.New(o.Settings).Run(ctx)
	if err != nil {
		return err
	}
	r.Command = strings.TrimSpace("go run . " + strings.Join(args, " "))
	r.Quick = o.quick
	r.Machine = machine.Describe()
	if err := write(r, o.out); err != nil {
		return err
	}
	if len(r.Failures) > 0 {
		return fmt.Errorf("%d measurements failed: %s", len(r.Failures), strings.Join(r.Failures, "\n"))
	}
	return nil
}

// write writes the folder and prints the tables.
func write(r *report.Report, dir string) error {
	charts := filepath.Join(dir, "charts")
	if err := os.MkdirAll(charts, 0o755); err != nil {
		return err
	}
	files := make(map[string][]string)
	for _, section := range slices.Concat(r.Front, r.Sections) {
		drawn := suite.Charts(section)
		for _, name := range slices.Sorted(maps.Keys(drawn)) {
			files[section.ID] = append(files[section.ID], "charts/"+name)
			for _, theme := range []chart.Theme{chart.Light, chart.Dark} {
				file := filepath.Join(charts, name+"-"+theme.Name+".svg")
				if err := os.WriteFile(file, []byte(drawn[name].SVG(theme)), 0o644); err != nil {
					return err
				}
			}
		}
	}
	if err := writeFile(filepath.Join(dir, "report.json"), func(f *os.File) error { return r.WriteJSON(f) }); err != nil {
		return err
	}
	return errors.Join(
		writeFile(filepath.Join(dir, "report.md"), func(f *os.File) error { return r.WriteMarkdown(f, files) }),
		writeFile(filepath.Join(dir, "front.md"), func(f *os.File) error { return r.WriteFront(f, files) }),
		r.WriteMarkdown(os.Stdout, nil),
	)
}

func writeFile(path string, write func(*os.File) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
