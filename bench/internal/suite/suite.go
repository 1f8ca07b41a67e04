// Package suite is the benchmark itself: it measures each subject under each load and builds the report.
package suite

import (
	"context"
	"fmt"
	"io"
	"math"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

// Settings bound a run.
type Settings struct {
	// Only selects measurements by "section/load/subject". Nil selects all.
	Only *regexp.Regexp
	// Rounds is how often each measurement is taken. All subjects of a load are measured side by side in each round.
	Rounds int
	// Warmup goes before each measurement, Duration is its length.
	Warmup, Duration time.Duration
	// Clients is the number of clients, and ManyClients their number where memory per client is measured.
	Clients, ManyClients int
	// Connections of the HTTP load, and requests in flight of the gRPC load, which uses GRPCConns connections.
	Connections, GRPCConns int
	// InvariantTries is how often a subject's limit is checked; the worst result counts.
	InvariantTries int
	// PeerPool is how many connections to Redis a peer in this process has.
	PeerPool int
	// PinRedis keeps Redis on the last CPU.
	PinRedis bool
	Seed     uint64
	// Profiles is a folder for a CPU profile of each service of Velocity's that is measured; empty: none is taken. Profiling costs
	// the service some of its time.
	Profiles string
	// Progress receives a line for each measurement.
	Progress io.Writer
}

// usual is the limit of all loads except the floods: the product's default. One of 100,000 clients, drawn at random, is
// seldom denied.
var usual = peer.Limit{Tokens: 5, Per: time.Second, Capacity: 10}

// Suite collects what was measured.
type Suite struct {
	cfg      Settings
	names    []string
	sections []*report.Section
	versions []report.Fact
	failures []string
	current  string // the measurement that is taken, as Settings.Only names it
}

// New prepares a run.
func New(cfg Settings) *Suite {
	return &Suite{cfg: cfg, names: load.Clients(cfg.Clients)}
}

// Run measures everything that is selected. A measurement that fails is reported in the result and does not stop the
// others; an error means that there is no result.
func (s *Suite) Run(ctx context.Context) (*report.Report, error) {
	started := time.Now()
	s.describeVersions()
	for _, section := range []func(context.Context) error{
		s.inProcess, s.inMemory, s.services, s.proxied, s.shards, s.limits, s.sharedLimits, s.sharedServices, s.clientLimits, s.manyClients, s.movedKeys,
	} {
		if err := section(ctx); err != nil {
			return nil, err
		}
	}
	r := &report.Report{
		Started: started, Took: time.Since(started).Round(time.Second).String(),
		Versions: s.versions, Settings: s.describeSettings(), Sections: s.sections, Failures: s.failures,
	}
	r.Targets, r.Costs, r.Front = Targets(r), Costs(r), Front(r)
	return r, nil
}

func (s *Suite) describeSettings() []report.Fact {
	return []report.Fact{
		{Name: "rounds", Value: strconv.Itoa(s.cfg.Rounds)},
		{Name: "each measurement", Value: fmt.Sprintf("%v, after a warm-up of %v", s.cfg.Duration, s.cfg.Warmup)},
		{Name: "clients", Value: fmt.Sprintf("%d, drawn uniformly, seed %d", s.cfg.Clients, s.cfg.Seed)},
		{Name: "limit", Value: usual.String()},
		{Name: "connections to Redis of each peer in process", Value: strconv.Itoa(s.cfg.PeerPool)},
		{Name: "Redis pinned to CPU", Value: map[string]string{"": "no"}[s.redisCPUs()] + s.redisCPUs()},
	}
}

// redisCPUs is where Redis may run, in taskset's notation; empty: anywhere.
func (s *Suite) redisCPUs() string {
	if !s.cfg.PinRedis || runtime.NumCPU() < 2 {
		return ""
	}
	return strconv.Itoa(runtime.NumCPU() - 1)
}

// measurement is one subject under one load. It sets up what it needs, is warmed up, measures and cleans up.
type measurement struct {
	group, subject string
	run            func(context.Context) (report.Values, error)
}

// selected returns the measurements that are wanted.
func (s *Suite) selected(section *report.Section, all []measurement) []measurement {
	if s.cfg.Only == nil {
		return all
	}
	var some []measurement
	for _, m := range all {
		if s.cfg.Only.MatchString(section.ID + "/" + m.group + "/" + m.subject) {
			some = append(some, m)
		}
	}
	return some
}

// fixture holds what a section needs: setUp starts it and returns a function that stops it, describe adds results that
// are not measured in rounds. Either may be nil.
type fixture struct {
	setUp    func(context.Context) (stop func(), err error)
	describe func(context.Context)
}

// measure takes the selected measurements of a section. It does nothing if none is selected.
func (s *Suite) measure(ctx context.Context, section *report.Section, all []measurement, rounds int, on fixture) error {
	all = s.selected(section, all)
	if len(all) == 0 {
		return nil
	}
	if on.setUp != nil {
		stop, err := on.setUp(ctx)
		if err != nil {
			s.fail(section.ID, fmt.Errorf("set up: %w", err))
			return ctx.Err()
		}
		defer stop()
	}
	if err := s.interleave(ctx, section, all, rounds); err != nil {
		return err
	}
	if on.describe != nil {
		on.describe(ctx)
	}
	return nil
}

// oneRedis returns a setUp that starts a server and stores it in *server.
func (s *Suite) oneRedis(server **redisserver.Server) func(context.Context) (func(), error) {
	return func(ctx context.Context) (func(), error) {
		started, err := redisserver.Start(ctx, s.redisCPUs())
		if err != nil {
			return nil, err
		}
		*server = started
		s.describeRedis(ctx, started)
		return func() { _ = started.Close() }, nil // nothing that was measured depends on how it ends
	}
}

// describeRedis adds the version to those of the run, once.
func (s *Suite) describeRedis(ctx context.Context, server *redisserver.Server) {
	const name = "Redis"
	if slices.ContainsFunc(s.versions, func(f report.Fact) bool { return f.Name == name }) {
		return
	}
	if version, err := server.Version(ctx); err == nil {
		s.versions = append(s.versions, report.Fact{Name: name, Value: version})
	}
}

// interleave takes every measurement once per round. The subjects of a group follow each other directly, so that a
// slow period of the machine affects all of them. Each round begins with another subject, so that none is always first.
func (s *Suite) interleave(ctx context.Context, section *report.Section, all []measurement, rounds int) error {
	var groups [][]measurement
	for _, m := range all {
		section.Row(m.group, m.subject)
		if n := len(groups); n == 0 || groups[n-1][0].group != m.group {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], m)
	}
	s.sections = append(s.sections, section)
	for round := range rounds {
		for _, group := range groups {
			for i := range group {
				m := group[(i+round)%len(group)]
				if err := ctx.Err(); err != nil {
					return err
				}
				s.take(ctx, section, m, round, rounds)
			}
		}
	}
	return nil
}

func (s *Suite) take(ctx context.Context, section *report.Section, m measurement, round, rounds int) {
	name := section.ID + "/" + m.group + "/" + m.subject
	s.current = name
	fmt.Fprintf(s.cfg.Progress, "%s round %d/%d", name, round+1, rounds)
	values, err := m.run(ctx)
	if err != nil {
		s.fail(name, err)
		values = report.Values{}
	}
	row := section.Row(m.group, m.subject)
	row.Rounds = append(row.Rounds, values)
	if len(section.Columns) > 0 && err == nil {
		first := section.Columns[0]
		fmt.Fprintf(s.cfg.Progress, ": %.*f %s", first.Decimals, values[first.Key], first.Title)
	}
	fmt.Fprintln(s.cfg.Progress)
}

func (s *Suite) fail(name string, err error) {
	s.failures = append(s.failures, name+": "+err.Error())
	fmt.Fprintf(s.cfg.Progress, "\n%s FAILED: %v\n", name, err)
}

// perDecision divides a time by a number of decisions, in microseconds.
func perDecision(d time.Duration, decisions int64) float64 {
	return float64(d) / float64(time.Microsecond) / float64(decisions)
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// share returns part/whole; NaN if whole is 0.
func share(part, whole int64) float64 {
	if whole == 0 {
		return math.NaN()
	}
	return float64(part) / float64(whole)
}

// isOwn reports whether a subject is this project's.
func isOwn(subject string) bool { return strings.HasPrefix(subject, "Velocity") }
