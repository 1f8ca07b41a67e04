package top

import "slices"

const (
	// room bounds the error: a count is at most 1/room of all observations too high.
	room = 64
	// most is how many clients a summary counts before it drops some. The more than room, the less often it has to.
	most = room + room/2
)

// client is who counts together under one policy.
type client struct {
	key string
	// byAddress says that the address stood in for a key that the request did not have.
	byAddress bool
}

// summary finds the most frequent clients of a stream in bounded memory: that of Misra and Gries ("Finding Repeated
// Elements", 1982), which drops many clients at once, as Anderson et al. do ("A High-Performance Algorithm for Identifying
// Frequent Items in Data Streams", 2017), so that it seldom has to. When it is full it raises the floor to what the client
// of place room has, and drops those at or below it. Who comes later may be one of them, so that it begins from there.
//
// With N observations the floor is at most N/room: to raise it by one takes away one of what each of room clients had
// above it. So a count is at most that much too high, and by how much at most is kept with it; a client with more
// than N/room observations is in the summary. While none was dropped, every count is exact.
type summary struct {
	total uint64
	// floor is the most that a client who is not in the summary can have.
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
	if len(s.entries) == most {
		s.drop()
	}
	if s.index == nil {
		s.index = make(map[client]int)
	}
	s.index[c] = len(s.entries)
	s.entries = append(s.entries, entry{client: c, count: s.floor + 1, tooHigh: s.floor})
}

// drop makes room in a full summary: less than room clients stay.
func (s *summary) drop() {
	var counts [most]uint64
	for i := range s.entries {
		counts[i] = s.entries[i].count
	}
	slices.Sort(counts[:])
	s.floor = counts[most-room]
	kept := s.entries[:0]
	clear(s.index)
	for _, e := range s.entries {
		if e.count > s.floor {
			s.index[e.client] = len(kept)
			kept = append(kept, e)
		}
	}
	clear(s.entries[len(kept):]) // else their keys would stay in memory
	s.entries = kept
}

// forget empties the summary and keeps its memory.
func (s *summary) forget() {
	clear(s.entries)
	clear(s.index)
	s.total, s.floor, s.entries = 0, 0, s.entries[:0]
}
