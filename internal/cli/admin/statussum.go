package admin

import (
	"slices"
	"strings"
)

// sumStatus adds up the reports of several nodes. A shard is up if it is for every node that has it. Where states, versions or
// breakers differ, all are named.
func sumStatus(nodes []*statusReport) *statusReport {
	sum := &statusReport{Decisions: []statusDecisions{}, Shards: []statusShard{}}
	var states, versions []string
	breakers := make(map[string][]string)
	decisions, shards := make(map[statusDecisions]int), make(map[string]int) // where they are in the sum
	for i, node := range nodes {
		states, versions = append(states, node.State), append(versions, node.Version)
		if i == 0 {
			sum.Latency = node.Latency.clone()
		} else {
			sum.Latency.add(&node.Latency)
		}
		for _, d := range node.Decisions {
			kind := d
			kind.Count = 0
			at, known := decisions[kind]
			if !known {
				at = len(sum.Decisions)
				decisions[kind] = at
				sum.Decisions = append(sum.Decisions, kind)
			}
			sum.Decisions[at].Count += d.Count
		}
		for _, s := range node.Shards {
			at, known := shards[s.Name]
			if !known {
				at = len(sum.Shards)
				shards[s.Name] = at
				sum.Shards = append(sum.Shards, statusShard{Name: s.Name, Up: true})
			}
			sum.Shards[at].add(&s)
			breakers[s.Name] = append(breakers[s.Name], s.Breaker)
		}
	}
	sum.State, sum.Version = distinct(states), distinct(versions)
	for i := range sum.Shards {
		sum.Shards[i].Breaker = distinct(breakers[sum.Shards[i].Name])
	}
	return sum
}

// add adds what another node says of the shard.
func (s *statusShard) add(other *statusShard) {
	s.nodes++
	if !other.Up {
		s.Up = false
		s.downFor++
	}
	s.Queued += other.Queued
	s.InFlight += other.InFlight
	s.Failures += other.Failures
	switch {
	case other.Latency == nil:
	case s.Latency == nil:
		own := other.Latency.clone()
		s.Latency = &own
	default:
		s.Latency.add(other.Latency)
	}
}

// distinct joins the texts that differ, in order, without the empty ones.
func distinct(texts []string) string {
	slices.Sort(texts)
	texts = slices.DeleteFunc(slices.Compact(texts), func(s string) bool { return s == "" })
	return strings.Join(texts, ", ")
}

func (h *histogram) clone() histogram {
	return histogram{slices.Clone(h.Bounds), slices.Clone(h.Counts), h.Sum}
}

// add adds the observations of another histogram. If its classes are others, which those of another version may be, it becomes
// one without observations: half of them would be a wrong answer.
func (h *histogram) add(other *histogram) {
	if !slices.Equal(h.Bounds, other.Bounds) || len(h.Counts) != len(other.Counts) {
		*h = histogram{}
		return
	}
	for i, n := range other.Counts {
		h.Counts[i] += n
	}
	h.Sum += other.Sum
}
