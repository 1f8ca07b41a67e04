package metrics

import "github.com/prometheus/client_golang/prometheus"

// WatchMemory exposes a store in this process's memory, under a name of its own: "memory" or "local".
func (m *Metrics) WatchMemory(store string, stats func() (buckets int, evictions uint64)) {
	labels := prometheus.Labels{"store": store}
	m.gauge("velocity_memory_buckets", "Buckets in this process's memory, by store.", labels, func() float64 {
		buckets, _ := stats()
		return float64(buckets)
	})
	m.counter("velocity_memory_evictions_total",
		"Buckets that left this process's memory before they were full: their clients gained tokens.", labels,
		func() uint64 {
			_, evictions := stats()
			return evictions
		})
}

// WatchShortcut exposes the memory of denials in front of Redis.
func (m *Metrics) WatchShortcut(entries func() int, hits func() uint64) {
	m.gauge("velocity_shortcut_entries", "Denials that the shortcut remembers, about.", nil,
		func() float64 { return float64(entries()) })
	m.counter("velocity_shortcut_hits_total", "Denials that the shortcut answered without the store.", nil, hits)
}

// WatchReloads exposes how a policy file is followed. stale says that what is in force is not what it holds.
func (m *Metrics) WatchReloads(status func() (reloaded, failed uint64, stale bool)) {
	const name, help = "velocity_policy_reloads_total", "Attempts to load the policy file again, by result."
	m.counter(name, help, prometheus.Labels{"result": "success"}, func() uint64 {
		reloaded, _, _ := status()
		return reloaded
	})
	m.counter(name, help, prometheus.Labels{"result": "failure"}, func() uint64 {
		_, failed, _ := status()
		return failed
	})
	m.gauge("velocity_policy_file_stale", "1 while the policy file is broken, and those of before are in force.", nil,
		func() float64 {
			_, _, stale := status()
			return oneIf(stale)
		})
}

// WatchLog exposes the lines that the log's output was too slow for.
func (m *Metrics) WatchLog(dropped func() uint64) {
	m.counter("velocity_log_lines_dropped_total", "Lines of the log that were dropped, its output being too slow.", nil,
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
