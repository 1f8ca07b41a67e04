package top

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// Top implements ports.TopSource.
func (t *Top) Top(n int) ports.TopReport {
	number := t.current.Load()
	policies := map[string]*ports.TopPolicy{}
	for i := range t.parts {
		t.parts[i].report(number, policies)
	}
	report := ports.TopReport{Window: t.window(number)}
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		p := policies[name]
		p.ByRequests, p.ByDenials = first(p.ByRequests, n), first(p.ByDenials, n)
		report.Policies = append(report.Policies, *p)
	}
	return report
}

// window returns the time that a report covers: the earlier spans, if there were any, and the elapsed part of the current one.
func (t *Top) window(number int64) time.Duration {
	running := t.now().Sub(t.started)
	start := time.Duration(t.spanStart.Load())
	before := time.Duration(min(number-spans, spans-1)) * span
	return min(running, before+running-start)
}

func (p *part) report(number int64, policies map[string]*ports.TopPolicy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, w := range p.policies {
		if w.idle(number) {
			continue
		}
		of := policies[name]
		if of == nil {
			of = &ports.TopPolicy{Policy: name}
			policies[name] = of
		}
		var requests, denials []*summary
		for i := range w {
			if w[i].number > number-spans {
				requests, denials = append(requests, &w[i].requests), append(denials, &w[i].denials)
			}
		}
		of.ByRequests = sum(of.ByRequests, requests, &of.Requests)
		of.ByDenials = sum(of.ByDenials, denials, &of.Denials)
	}
}

// sum appends the estimate of each client over several spans to list, and adds their totals to total.
func sum(list []ports.TopClient, summaries []*summary, total *uint64) []ports.TopClient {
	seen := map[client]bool{}
	for _, s := range summaries {
		*total += s.total
		for i := range s.entries {
			c := s.entries[i].client
			if seen[c] {
				continue
			}
			seen[c] = true
			list = append(list, estimate(c, summaries))
		}
	}
	return list
}

// estimate adds up the counts of a client. A client that is missing from a summary has at most the summary's floor.
func estimate(c client, summaries []*summary) ports.TopClient {
	found := ports.TopClient{Key: c.key}
	if c.byAddress {
		found.Source = "ip"
	}
	for _, s := range summaries {
		if i, ok := s.index[c]; ok {
			found.Count += s.entries[i].count
			found.Error += s.entries[i].tooHigh
			continue
		}
		found.Count += s.floor
		found.Error += s.floor
	}
	return found
}

// first returns the n clients with the highest counts. Among equal counts, the smaller error is first.
func first(list []ports.TopClient, n int) []ports.TopClient {
	slices.SortFunc(list, func(a, b ports.TopClient) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Error, b.Error), cmp.Compare(a.Key, b.Key),
			cmp.Compare(a.Source, b.Source))
	})
	return list[:min(n, len(list))]
}
