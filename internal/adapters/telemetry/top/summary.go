package top

// client is who counts together under one policy.
type client struct {
	key string
	// byAddress says that the address stood in for a key that the request did not have.
	byAddress bool
}

// summary finds the most frequent clients of a stream in bounded memory: Space-Saving, by Metwally, Agrawal and
// El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams" (ICDT 2005). It counts as many
// clients as it has room for; a further one takes the place, and the count, of the one with the least.
//
// With N observations and room for k, a count is at most N/k too high, and by how much at most is kept with it; a
// client with more than N/k observations is in the summary. While no place was taken, every count is exact.
type summary struct {
	total   uint64
	entries []entry
	// heap orders the entries by count, the least first; entries know their place in it.
	heap  []int
	index map[client]int // into entries
}

type entry struct {
	client
	count, tooHigh uint64
	place          int
}

func (s *summary) add(c client, room int) {
	s.total++
	if i, ok := s.index[c]; ok {
		s.entries[i].count++
		s.sink(s.entries[i].place)
		return
	}
	if len(s.entries) < room {
		s.append(c)
		return
	}
	e := &s.entries[s.heap[0]]
	delete(s.index, e.client)
	s.index[c] = s.heap[0]
	e.client, e.tooHigh = c, e.count
	e.count++
	s.sink(0)
}

// append adds a client with a count of 1: nobody has less, so that the top of the heap is where it belongs.
func (s *summary) append(c client) {
	if s.index == nil {
		s.index = make(map[client]int)
	}
	i, place := len(s.entries), len(s.heap)
	s.index[c] = i
	s.entries = append(s.entries, entry{client: c, count: 1, place: place})
	s.heap = append(s.heap, i)
	for place > 0 && s.less(place, (place-1)/2) {
		s.swap(place, (place-1)/2)
		place = (place - 1) / 2
	}
}

func (s *summary) sink(place int) {
	for {
		least := place
		for child := 2*place + 1; child <= 2*place+2 && child < len(s.heap); child++ {
			if s.less(child, least) {
				least = child
			}
		}
		if least == place {
			return
		}
		s.swap(place, least)
		place = least
	}
}

func (s *summary) less(a, b int) bool { return s.entries[s.heap[a]].count < s.entries[s.heap[b]].count }

func (s *summary) swap(a, b int) {
	s.heap[a], s.heap[b] = s.heap[b], s.heap[a]
	s.entries[s.heap[a]].place, s.entries[s.heap[b]].place = a, b
}

// most is the most that a client who is not in the summary can have.
func (s *summary) most(room int) uint64 {
	if len(s.entries) < room {
		return 0
	}
	return s.entries[s.heap[0]].count
}

// forget empties the summary and keeps its memory.
func (s *summary) forget() {
	clear(s.entries)
	clear(s.index)
	s.total, s.entries, s.heap = 0, s.entries[:0], s.heap[:0]
}
