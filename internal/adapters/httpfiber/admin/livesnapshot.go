package admin

import (
	"time"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// The JSON of an event of /v1/live. Numbers of decisions are totals since the start of the process.
type (
	jsonLive struct {
		AtMS      int64           `json:"at_ms"`
		Version   string          `json:"version"`
		State     string          `json:"state"` // as /readyz names it
		Decisions []jsonDecisions `json:"decisions"`
		Latency   jsonHistogram   `json:"latency_seconds"`
		Shards    []jsonShard     `json:"shards"`
		Top       jsonTop         `json:"top"`
		// Overrides is left out by a service without overrides at run time.
		Overrides *jsonOverridesStatus `json:"overrides,omitzero"`
	}
	jsonOverridesStatus struct {
		Count    int   `json:"count"`
		Known    bool  `json:"known"`
		BehindMS int64 `json:"behind_ms"`
		Local    bool  `json:"local,omitzero"`
	}
	jsonDecisions struct {
		Policy  string `json:"policy"`
		Outcome string `json:"outcome"`
		Store   string `json:"store"`
		Count   uint64 `json:"count"`
	}
	jsonHistogram struct {
		Bounds []float64 `json:"bounds"`
		Counts []uint64  `json:"counts"`
		Sum    float64   `json:"sum"`
	}
	jsonShard struct {
		Name     string         `json:"name"`
		Up       bool           `json:"up"`
		Breaker  string         `json:"breaker,omitzero"` // unknown if left out, as is all that follows
		SinceMS  int64          `json:"since_ms,omitzero"`
		Queued   int            `json:"queued"`
		InFlight int            `json:"in_flight"`
		Groups   uint64         `json:"groups"`
		Failures uint64         `json:"failures"`
		Latency  *jsonHistogram `json:"latency_seconds,omitzero"`
	}
)

func (f *liveFeed) snapshot(health []ports.ShardHealth) jsonLive {
	totals := f.sources.Monitor.Totals()
	out := jsonLive{
		AtMS:      time.Now().UnixMilli(),
		Version:   f.sources.Version,
		State:     f.state(health),
		Decisions: make([]jsonDecisions, len(totals.Decisions)),
		Latency:   jsonHistogram(totals.Latency),
		Shards:    shardsJSON(health, f.stats()),
		Top:       topJSON(f.sources.Top.Top(liveClients)),
	}
	for i, d := range totals.Decisions {
		out.Decisions[i] = jsonDecisions{d.Policy, d.Outcome, string(d.Store), d.Count}
	}
	if f.overrides != nil {
		s := f.overrides.OverridesStatus()
		out.Overrides = &jsonOverridesStatus{s.Count, s.Known, s.Behind.Milliseconds(), s.Local}
	}
	return out
}

func (f *liveFeed) stats() []ports.ShardStats {
	if f.sources.Stats == nil {
		return nil
	}
	return f.sources.Stats.Stats()
}

// shardsJSON joins the health of each shard with its statistics. A shard is up if it answers and its breaker is closed.
func shardsJSON(health []ports.ShardHealth, stats []ports.ShardStats) []jsonShard {
	byName := make(map[string]*ports.ShardStats, len(stats))
	for i := range stats {
		byName[stats[i].Name] = &stats[i]
	}
	out := make([]jsonShard, len(health))
	for i, h := range health {
		out[i] = jsonShard{Name: h.Name, Up: h.Err == nil}
		s := byName[h.Name]
		if s == nil {
			continue
		}
		out[i].Up = out[i].Up && s.Breaker == ports.BreakerClosed
		out[i].Breaker = string(s.Breaker)
		if !s.Since.IsZero() {
			out[i].SinceMS = s.Since.UnixMilli()
		}
		out[i].Queued, out[i].InFlight, out[i].Groups = s.Queued, s.InFlight, s.Groups
		for _, n := range s.Failures {
			out[i].Failures += n
		}
		latency := jsonHistogram(s.BatchSeconds)
		out[i].Latency = &latency
	}
	return out
}
