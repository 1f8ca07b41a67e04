package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// WatchMemory exposes a memory store of this process, with the label store: "memory" or "local".
func (m *Metrics) WatchMemory(store string, stats func() (buckets int, evictions uint64)) {
	labels := prometheus.Labels{"store": store}
	m.gauge("velocity_memory_buckets", "Buckets in this process's memory, by store.", labels, func() float64 {
		buckets, _ := stats()
		return float64(buckets)
	})
	m.counter("velocity_memory_evictions_total",
		"Buckets evicted from this process's memory before they were full: their clients gained tokens.", labels,
		func() uint64 {
			_, evictions := stats()
			return evictions
		})
}

// WatchDenialCache exposes the denial cache in front of Redis.
func (m *Metrics) WatchDenialCache(entries func() int, hits func() uint64) {
	m.gauge("velocity_shortcut_entries", "Denials that the denial cache remembers, approximately.", nil,
		func() float64 { return float64(entries()) })
	m.counter("velocity_shortcut_hits_total", "Denials that the denial cache answered without the store.", nil, hits)
}

// WatchReloads exposes the reloads of the policy file. stale says that the policies in force are not those of the file.
func (m *Metrics) WatchReloads(status func() (reloaded, failed uint64, stale bool)) {
	m.watchReloads("velocity_policy_reloads_total", "Attempts to load the policy file again, by result.", status)
	m.gauge("velocity_policy_file_stale", "1 while the policy file has errors and the earlier policies stay in force.", nil,
		func() float64 {
			_, _, stale := status()
			return oneIf(stale)
		})
}

// WatchEnvoyReloads exposes the reloads of Envoy's files, as WatchReloads does for the policy file.
func (m *Metrics) WatchEnvoyReloads(status func() (reloaded, failed uint64, stale bool)) {
	m.watchReloads("velocity_envoy_config_reloads_total", "Attempts to load the files of VELOCITY_ENVOY_CONFIG again, by result.", status)
	m.gauge("velocity_envoy_config_stale",
		"1 while the files of VELOCITY_ENVOY_CONFIG have errors and the earlier rules stay in force.", nil,
		func() float64 {
			_, _, stale := status()
			return oneIf(stale)
		})
}

func (m *Metrics) watchReloads(name, help string, status func() (reloaded, failed uint64, stale bool)) {
	m.counter(name, help, prometheus.Labels{"result": "success"}, func() uint64 {
		reloaded, _, _ := status()
		return reloaded
	})
	m.counter(name, help, prometheus.Labels{"result": "failure"}, func() uint64 {
		_, failed, _ := status()
		return failed
	})
}

// WatchTokens exposes what became of the tokens (JWT) of requests, and of the keys that verify them. The label reason has one of
// reasons.
func (m *Metrics) WatchTokens(
	reasons []string, rejected func(i int) uint64, loads func() (loaded, failed uint64), keys func() (missing, stale bool),
) {
	for i, reason := range reasons {
		m.counter("velocity_tokens_rejected_total", "Tokens (JWT) that were not believed, by reason. Their requests have no claims.",
			prometheus.Labels{"reason": reason}, func() uint64 { return rejected(i) })
	}
	const name, help = "velocity_token_key_loads_total", "Attempts to load the keys of tokens, by result."
	m.counter(name, help, prometheus.Labels{"result": "success"}, func() uint64 {
		loaded, _ := loads()
		return loaded
	})
	m.counter(name, help, prometheus.Labels{"result": "failure"}, func() uint64 {
		_, failed := loads()
		return failed
	})
	m.gauge("velocity_token_keys_missing", "1 while no keys of tokens have been loaded, so that every token is rejected.", nil,
		func() float64 {
			missing, _ := keys()
			return oneIf(missing)
		})
	m.gauge("velocity_token_keys_stale",
		"1 while the keys of tokens cannot be loaded again, and those that were loaded before stay in use.", nil,
		func() float64 {
			_, stale := keys()
			return oneIf(stale)
		})
}

// WatchOverrides exposes the overrides that operators set for single clients at run time.
func (m *Metrics) WatchOverrides(status func() ports.OverridesStatus) {
	m.gauge("velocity_overrides", "Overrides of single clients, set at run time, that are in force in this process.", nil,
		func() float64 { return float64(status().Count) })
	m.gauge("velocity_overrides_behind_seconds",
		"Time since this process last knew that it has seen every change of the overrides.", nil,
		func() float64 { return status().Behind.Seconds() })
}

// WatchUnfitOverrides exposes how many overrides do not fit their policies any more. count returns their number for each policy and
// shared limit that has overrides.
func (m *Metrics) WatchUnfitOverrides(count func() map[string]int) {
	m.registry.MustRegister(unfitOverrides{count})
}

// unfitOverrides is a collector that counts at each scrape.
type unfitOverrides struct{ count func() map[string]int }

var unfitDesc = prometheus.NewDesc("velocity_overrides_unfit",
	"Overrides of which something does not fit their policy any more, and is ignored.", []string{"policy"}, nil)

// Describe implements prometheus.Collector.
func (unfitOverrides) Describe(ch chan<- *prometheus.Desc) { ch <- unfitDesc }

// Collect implements prometheus.Collector.
func (c unfitOverrides) Collect(ch chan<- prometheus.Metric) {
	for policyName, n := range c.count() {
		ch <- prometheus.MustNewConstMetric(unfitDesc, prometheus.GaugeValue, float64(n), policyName)
	}
}

// WatchLog exposes the number of log lines dropped because the output was too slow.
func (m *Metrics) WatchLog(dropped func() uint64) {
	m.counter("velocity_log_lines_dropped_total", "Lines of the log dropped because its output was too slow.", nil,
		dropped)
}

func (m *Metrics) gauge(name, help string, labels prometheus.Labels, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

func (m *Metrics) counter(name, help string, labels prometheus.Labels, value func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(
		prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(value()) }))
}

// upstreamBounds reach to the default time-out of an upstream, in seconds.
var upstreamBounds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Upstream counts the answers of the server behind the reverse proxy.
type Upstream struct {
	// answers are the counters by class of status: 1 to 5 for 1xx to 5xx, and 0 for no answer.
	answers [6]prometheus.Counter
	took    prometheus.Histogram
}

// WatchUpstream exposes the counters of the reverse proxy.
func (m *Metrics) WatchUpstream() *Upstream {
	u := &Upstream{took: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "velocity_upstream_duration_seconds",
		Help:    "Time from forwarding a request to the header of the upstream's answer.",
		Buckets: upstreamBounds,
	})}
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "velocity_upstream_answers_total",
		Help: "Answers of the upstream, by class of status; class none for requests that it did not answer.",
	}, []string{"class"})
	for class := range u.answers {
		name := "none"
		if class > 0 {
			name = strconv.Itoa(class) + "xx"
		}
		u.answers[class] = total.WithLabelValues(name)
	}
	m.registry.MustRegister(total, u.took)
	return u
}

// Answered counts an answer with this status, or none if status is 0.
func (u *Upstream) Answered(status int, took time.Duration) {
	class := status / 100
	if class < 1 || class > 5 {
		u.answers[0].Inc()
		return
	}
	u.answers[class].Inc()
	u.took.Observe(took.Seconds())
}

// WatchShards exposes the statistics of the store's servers. A scrape sends them no request.
func (m *Metrics) WatchShards(source ports.StatsSource) { m.registry.MustRegister(shards{source}) }

// shards is a collector that reads the source at each scrape.
type shards struct{ source ports.StatsSource }

// shardMetric is one metric that has a number per shard.
type shardMetric struct {
	desc  *prometheus.Desc
	typ   prometheus.ValueType
	value func(*ports.ShardStats) float64
}

func shardDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("velocity_shard_"+name, help, append([]string{"shard"}, labels...), nil)
}

func shardGauge(name, help string, value func(*ports.ShardStats) float64) shardMetric {
	return shardMetric{shardDesc(name, help), prometheus.GaugeValue, value}
}

func shardCounter(name, help string, value func(*ports.ShardStats) uint64) shardMetric {
	return shardMetric{
		shardDesc(name, help), prometheus.CounterValue, func(s *ports.ShardStats) float64 { return float64(value(s)) },
	}
}

var shardMetrics = []shardMetric{
	shardGauge("up", "1 while the shard decides: its breaker is closed and its last call did not fail.",
		func(s *ports.ShardStats) float64 { return oneIf(s.Up) }),
	shardGauge("queued_groups", "Bucket groups that wait to be sent to the shard.",
		func(s *ports.ShardStats) float64 { return float64(s.Queued) }),
	shardGauge("inflight_batches", "Batches that the shard has not answered yet.",
		func(s *ports.ShardStats) float64 { return float64(s.InFlight) }),
	shardGauge("clock_skew_seconds", "How far the shard's clock is ahead of this process's, at the least.",
		func(s *ports.ShardStats) float64 { return s.ClockSkew.Seconds() }),
	shardCounter("batches_total", "Batches sent to the shard, whatever became of them.",
		func(s *ports.ShardStats) uint64 { return s.Batches }),
	shardCounter("groups_total", "Bucket groups in those batches.",
		func(s *ports.ShardStats) uint64 { return s.Groups }),
	shardCounter("refused_groups_total", "Bucket groups not sent, the breaker being open.",
		func(s *ports.ShardStats) uint64 { return s.Refused }),
	shardCounter("overloaded_groups_total", "Bucket groups not sent, too much waiting already.",
		func(s *ports.ShardStats) uint64 { return s.Overloaded }),
	shardCounter("breaker_openings_total", "How often the shard's breaker opened.",
		func(s *ports.ShardStats) uint64 { return s.Openings }),
}

var (
	breakerStates = []ports.BreakerState{ports.BreakerClosed, ports.BreakerOpen, ports.BreakerHalfOpen}

	breakerDesc = shardDesc("breaker_state", "1 for the state that the shard's breaker is in, 0 for the others.", "state")
	failureDesc = shardDesc("failures_total", "Batches in which a failure of a kind occurred.", "kind")
	timeDesc    = shardDesc("batch_duration_seconds", "Time of batches from sending to answer.")
	sizeDesc    = shardDesc("batch_groups", "Bucket groups in a batch.")
)

// Describe implements prometheus.Collector.
func (shards) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range shardMetrics {
		ch <- m.desc
	}
	for _, desc := range []*prometheus.Desc{breakerDesc, failureDesc, timeDesc, sizeDesc} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c shards) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.source.Stats() {
		for _, m := range shardMetrics {
			ch <- prometheus.MustNewConstMetric(m.desc, m.typ, m.value(&s), s.Name)
		}
		for _, state := range breakerStates {
			ch <- prometheus.MustNewConstMetric(breakerDesc, prometheus.GaugeValue, oneIf(s.Breaker == state), s.Name,
				string(state))
		}
		for kind, n := range s.Failures {
			if n > 0 { // most kinds never occur
				ch <- prometheus.MustNewConstMetric(failureDesc, prometheus.CounterValue, float64(n), s.Name, kind)
			}
		}
		ch <- constHistogram(timeDesc, &s.BatchSeconds, s.Name)
		ch <- constHistogram(sizeDesc, &s.BatchGroups, s.Name)
	}
}

func constHistogram(desc *prometheus.Desc, h *ports.Histogram, shard string) prometheus.Metric {
	cumulative, total := make(map[float64]uint64, len(h.Bounds)), uint64(0)
	for i, n := range h.Counts {
		total += n
		if i < len(h.Bounds) {
			cumulative[h.Bounds[i]] = total
		}
	}
	return prometheus.MustNewConstHistogram(desc, total, h.Sum, cumulative, shard)
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
