package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// WatchShards exposes how the store's servers fare. A scrape asks none of them.
func (m *Metrics) WatchShards(source ports.StatsSource) { m.registry.MustRegister(shards{source}) }

// shards collects a source's numbers at each scrape.
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
		for _, kind := range ports.FailureKinds() { // those that occurred: there are many kinds
			if n := s.Failures[kind]; n > 0 {
				ch <- prometheus.MustNewConstMetric(failureDesc, prometheus.CounterValue, float64(n), s.Name, string(kind))
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
