package accesslog

import (
	"container/heap"

	"github.com/velocity-limiter/velocity/internal/domain"
)

const (
	// The window holds no more than this, even if it becomes shorter than its span.
	maxHeldEntries = 1 << 16
	maxHeldBytes   = 64 << 20
)

// window sorts entries that are nearly in order. Servers write a line after the answer, but some log the time at which the
// request came.
type window struct {
	held   byTime
	bytes  int
	span   domain.Instant // how long an entry waits for earlier ones
	newest domain.Instant // latest time of an entry that was added
	last   domain.Instant // time of the last entry that was removed
	late   int
}

// add adds an entry. One that comes too late gets the time of the last entry that was removed, so that time never goes
// back.
func (w *window) add(e *entry) {
	if e.At < w.last {
		e.At = w.last
		w.late++
	}
	w.newest = max(w.newest, e.At)
	w.bytes += e.bytes()
	heap.Push(&w.held, e)
}

// next removes and returns the earliest entry, or nil if an earlier one may still come.
func (w *window) next() *entry {
	if len(w.held) == 0 ||
		w.held[0].At > w.newest-w.span && len(w.held) <= maxHeldEntries && w.bytes <= maxHeldBytes {
		return nil
	}
	return w.rest()
}

// rest removes and returns the earliest entry, once no more are added; nil after the last one.
func (w *window) rest() *entry {
	if len(w.held) == 0 {
		return nil
	}
	e := heap.Pop(&w.held).(*entry)
	w.bytes -= e.bytes()
	w.last = e.At
	return e
}

// byTime is a heap. Entries with the same time keep the order of the log.
type byTime []*entry

var _ heap.Interface = (*byTime)(nil)

func (h byTime) Len() int      { return len(h) }
func (h byTime) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byTime) Push(e any)   { *h = append(*h, e.(*entry)) }

func (h byTime) Less(i, j int) bool {
	return h[i].At < h[j].At || h[i].At == h[j].At && h[i].Line < h[j].Line
}

func (h *byTime) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
