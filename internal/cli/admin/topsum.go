package admin

import (
	"cmp"
	"slices"
)

// sumTop adds up the reports of several nodes, by policy and client. Each node was asked for listed clients of each kind; of the
// sum n are kept. The window is the longest: a node that started later has seen less of it.
//
// A client that a full list does not have may have been counted there as often as the last client in it. So that number is
// added to its count and its error, as when summaries of the algorithm Space-Saving are merged (Agarwal and others,
// "Mergeable Summaries", 2012): the true count stays between count - error and count.
func sumTop(nodes []*topReport, listed, n int) *topReport {
	sum := &topReport{Policies: []topPolicy{}}
	parts := make(map[string][]*topPolicy)
	for _, node := range nodes {
		sum.WindowMS = max(sum.WindowMS, node.WindowMS)
		for i := range node.Policies {
			p := &node.Policies[i]
			if parts[p.Policy] == nil {
				sum.Policies = append(sum.Policies, topPolicy{Policy: p.Policy})
			}
			parts[p.Policy] = append(parts[p.Policy], p)
		}
	}
	for i := range sum.Policies {
		p := &sum.Policies[i]
		var denials, requests [][]topClient
		for _, part := range parts[p.Policy] {
			p.Requests += part.Requests
			p.Denials += part.Denials
			denials, requests = append(denials, part.ByDenials), append(requests, part.ByRequests)
		}
		p.ByDenials, p.ByRequests = sumClients(denials, listed, n), sumClients(requests, listed, n)
	}
	return sum
}

// sumClients adds up lists of clients.
func sumClients(lists [][]topClient, listed, n int) []topClient {
	type identity struct{ key, source string }
	sums := make(map[identity]*topClient)
	unlisted := uint64(0) // what a client may have on the nodes whose full lists lack it; at first that on all of them
	for _, list := range lists {
		least := leastOf(list, listed)
		unlisted += least
		for _, c := range list {
			id := identity{c.Key, c.Source}
			if sums[id] == nil {
				sums[id] = &topClient{Key: c.Key, Source: c.Source}
			}
			// In 64 bits a difference below zero and the sum of all that is unlisted are exact in the end.
			sums[id].Count += c.Count - least
			sums[id].Error += c.Error - least
		}
	}
	out := make([]topClient, 0, len(sums))
	for _, c := range sums {
		c.Count += unlisted
		c.Error += unlisted
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b topClient) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Source, b.Source))
	})
	return out[:min(max(n, 0), len(out))]
}

// leastOf returns the least count of a list that may go on; 0 for a list that has all clients.
func leastOf(list []topClient, listed int) uint64 {
	if len(list) < listed {
		return 0
	}
	return list[len(list)-1].Count
}
