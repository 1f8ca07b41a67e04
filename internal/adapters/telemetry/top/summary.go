package top

import "slices"

const (
	// kept bounds the error: a count is too high by at most 1/kept of all observations.
	kept = 64
	// maxEntries is how many clients a summary counts before it drops some. The larger it is, the less often that happens.
	maxEntries = kept + kept/2
)

// client is a client of one policy.
type client struct {
	key string
	// byAddress says that key is the client's address, because the request did not have the policy's key.
	byAddress bool
}

// summary finds the most frequent clients of a stream in bounded memory, by the algorithm of Misra and Gries ("Finding
// Repeated Elements", 1982). Like Anderson et al. ("A High-Performance Algorithm for Identifying Frequent Items in Data
// Streams", 2017) it drops many clients at once, so that it drops seldom. When it is full, it raises the floor to the count
// that the kept largest clients reach, and drops the clients at or below the floor. A client that appears later may be one
// of them, so its count starts at the floor.
//
// After N observations the floor is at most N/kept, since raising it by one takes one from each of kept clients. Each entry
// holds how much its count may be too high. A client with more than N/kept observations is always in the summary. Until the
// first client is dropped, every count is exact.
type summary struct {
	total uint64
	// floor is the highest count that a client outside the summary can have.
	floor   uint64
	entries []entry
	index   map[client]int // into entries
}

type entry struct {
	client
	count, tooHigh uint64
}

func (s *summary) add(c client) {
	s.total++
	if i, ok := s.index[c]; ok {
		s.entries[i].count++
		return
	}
	if len(s.entries) == maxEntries {
		s.drop()
	}
	if s.index == nil {
		s.index = make(map[client]int)
	}
	s.index[c] = len(s.entries)
	s.entries = append(s.entries, entry{client: c, count: s.floor + 1, tooHigh: s.floor})
}

// drop removes entries from a full summary. Fewer than kept remain.
func (s *summary) drop() {
	var counts [maxEntries]uint64
	for i := range s.entries {
		counts[i] = s.entries[i].count
	}
	slices.Sort(counts[:])
	s.floor = counts[maxEntries-kept]
	rest := s.entries[:0]
	clear(s.index)
	for _, e := range s.entries {
		if e.count > s.floor {
			s.index[e.client] = len(rest)
			rest = append(rest, e)
		}
	}
	clear(s.entries[len(rest):]) // so that their keys can be freed
	s.entries = rest
}

// reset empties the summary and keeps its memory.
func (s *summary) reset() {
	clear(s.entries)
	clear(s.index)
	s.total, s.floor, s.entries = 0, 0, s.entries[:0]
}
