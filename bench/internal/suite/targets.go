package suite

import (
	"fmt"
	"math"
	"runtime"
	"runtime/debug"

	"github.com/velocity-limiter/velocity/bench/internal/machine"
	"github.com/velocity-limiter/velocity/bench/internal/memorypeer"
	"github.com/velocity-limiter/velocity/bench/internal/redispeer"
	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/stats"
)

// Targets compares the run with the targets that the project has set itself.
func Targets(r *report.Report) []report.Target {
	m := results{r}
	var targets []report.Target
	for _, x := range []struct {
		workers int
		rate    float64
	}{{64, 2.5}, {512, 3}} {
		load := goroutines(x.workers)
		targets = append(targets,
			report.NewTarget("decisions/s in process, times redis_rate's, "+load,
				m.ratio("inprocess", load, redispeer.Velocity, redispeer.RedisRate, "rate"), false, x.rate),
			report.NewTarget("p99 in process, times redis_rate's, "+load,
				m.ratio("inprocess", load, redispeer.Velocity, redispeer.RedisRate, "p99"), true, 1))
	}
	targets = append(
		targets,
		report.NewTarget("CPU per HTTP decision with Redis, times envoyproxy/ratelimit's cheapest",
			m.againstLeast("services", groupRequests, velocityRedis, []string{envoy, envoyGathered, envoyCached}, "cpu"), true, 0.333),
		report.NewTarget("CPU per decision over Envoy's protocol, times envoyproxy/ratelimit's",
			m.ratio("services", groupRequests, velocityGRPC, envoy, "cpu"), true, 0.5),
		report.NewTarget("decisions per CPU second of /v1/checks of 100, times /v1/check's",
			m.ratio("services", groupAPI, velocityCheck, velocityChecks, "cpu"), false, 4),
		report.NewTarget("scripts per denial in a flood",
			m.value("services", groupFlood, velocityRedis, "scripts"), true, 0.01),
		report.NewTarget("CPU per request of the reverse proxy in memory, times a bare httputil.ReverseProxy's",
			m.ratio("proxy", groupProxied, velocityProxy, bareProxy, "cpu"), true, 1.25),
		report.NewTarget("the same, times Caddy's",
			m.ratio("proxy", groupProxied, velocityProxy, caddyProxy, "cpu"), true, 1),
		report.NewTarget("Redis CPU of a policy of 4 limits, times one of 1 limit's, batches of 32",
			m.ratio("limits", groupBatches, fourLimits, oneLimit, "redis_cpu"), true, 2.5),
		report.NewTarget("the same, times that of a take for each limit",
			m.ratio("limits", groupBatches, fourLimits, fourTakes, "redis_cpu"), true, 0.65),
		report.NewTarget("decisions/s with every decision logged, times those with none logged",
			m.ratio("services", groupRequests, velocityAll, velocityNone, "rate"), false, 0.85),
	)
	for _, workers := range []int{64, 512} {
		load := goroutines(workers)
		targets = append(targets, report.NewTarget("Redis CPU of a per-client and a global limit, times the per-client limit's, "+load,
			m.ratio("shared", load, perClientGlobal, perClient, "redis_cpu"), true, 1.15))
	}
	targets = append(
		targets,
		report.NewTarget("CPU per HTTP decision of a per-client and a global limit, times the per-client limit's",
			m.ratio("shared-services", groupSharedHTTP, perClientGlobal, perClient, "cpu"), true, 1.15),
		report.NewTarget("Redis CPU us per decision of one key, 512 goroutines",
			m.value("shared", goroutines(512), hotKey, "redis_cpu"), true, 0.3),
		report.NewTarget("decisions/s of one key, times redis_rate's, 512 goroutines",
			m.ratio("shared", goroutines(512), hotKey, rateHotKey, "rate"), false, 6),
	)
	for _, subject := range []string{withConditions, withOverrides, withBoth} {
		targets = append(targets, report.NewTarget("CPU per HTTP decision with Redis of "+subject+", times that of one limit for all",
			m.ratio("client-limits", groupSharedHTTP, subject, sameForAll, "cpu"), true, 1.1))
	}
	for _, cpus := range []int{1, 2} {
		group := inMemoryGroup(usualLoad, cpus)
		targets = append(targets,
			report.NewTarget(fmt.Sprintf("time in memory, times the fastest peer's, GOMAXPROCS %d", cpus), m.againstLeast("inmemory", group, redispeer.Velocity, peersInMemory(), "ns"), true, 0.9),
			report.NewTarget(fmt.Sprintf("allocations in memory, GOMAXPROCS %d", cpus), m.value("inmemory", group, redispeer.Velocity, "allocs"), true, 0))
	}
	return targets
}

// results looks values up in a report.
type results struct{ *report.Report }

func (m results) row(section, group, subject string) *report.Row {
	for _, s := range m.Sections {
		if s.ID == section {
			return s.Find(group, subject)
		}
	}
	return nil
}

func (m results) value(section, group, subject, key string) float64 {
	r := m.row(section, group, subject)
	if r == nil {
		return math.NaN()
	}
	return r.Median(key)
}

func (m results) ratio(section, group, subject, other, key string) float64 {
	r := m.row(section, group, subject)
	if r == nil {
		return math.NaN()
	}
	return r.RatioTo(m.row(section, group, other), key)
}

// over is how much more CPU time a subject takes than another, as text.
func (m results) over(section, group, subject, other string) string {
	r := m.row(section, group, subject)
	if r == nil {
		return report.Number(math.NaN(), 1)
	}
	return report.Number(r.Over(m.row(section, group, other), "cpu"), 1)
}

// againstLeast returns the median of the ratios of a subject's value to the least of its rivals' in the same round.
func (m results) againstLeast(section, group, subject string, rivals []string, key string) float64 {
	own := m.row(section, group, subject)
	if own == nil {
		return math.NaN()
	}
	least := make([]float64, len(own.Rounds))
	for i := range least {
		least[i] = math.Inf(1)
	}
	for _, rival := range rivals {
		r := m.row(section, group, rival)
		if r == nil {
			continue
		}
		for i, v := range r.Series(key)[:len(least)] {
			if v < least[i] { // false for NaN
				least[i] = v
			}
		}
	}
	for i, v := range least {
		if math.IsInf(v, 1) {
			least[i] = math.NaN()
		}
	}
	return stats.PairedRatio(own.Series(key), least)
}

func peersInMemory() []string {
	var names []string
	for _, p := range memorypeer.All()[1:] {
		names = append(names, p.Name)
	}
	return names
}

// describeVersions lists what this program was built from.
func (s *Suite) describeVersions() {
	s.versions = append(s.versions, report.Fact{Name: "Go", Value: runtime.Version()})
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	paths := []string{"github.com/redis/go-redis/v9", "google.golang.org/grpc"}
	for _, p := range redispeer.All(s.cfg.PeerPool)[1:] {
		paths = append(paths, p.Module)
	}
	for _, p := range memorypeer.All()[1:] {
		paths = append(paths, p.Module)
	}
	s.versions = append(s.versions, machine.Modules(info, unique(paths)...)...)
}

func unique(paths []string) []string {
	var once []string
	seen := make(map[string]bool)
	for _, p := range paths {
		if p != "" && !seen[p] {
			seen[p] = true
			once = append(once, p)
		}
	}
	return once
}
