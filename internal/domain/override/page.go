package override

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Page returns at most limit entries of an owner that are in force, by client and key in ascending order, from the first one after
// a client and key.
func (t *Table) Page(owner string, client string, key clientkey.BucketKey, limit int, now domain.Instant) []Entry {
	if limit < 1 {
		return nil
	}
	var page pageHeap
	t.all(func(r *record) {
		if r.terms == nil || ownerOf(r.key) != owner {
			return
		}
		e := r.entry()
		if !e.InForce(now) || compareTo(&e, client, key) <= 0 {
			return
		}
		if len(page) == limit {
			if compareTo(&e, page[0].Client, page[0].Key) > 0 {
				return
			}
			heap.Pop(&page)
		}
		heap.Push(&page, e)
	})
	slices.SortFunc(page, func(a, b Entry) int { return compareTo(&a, b.Client, b.Key) })
	return page
}

func compareTo(e *Entry, client string, key clientkey.BucketKey) int {
	return cmp.Or(cmp.Compare(e.Client, client), cmp.Compare(e.Key, key))
}

// pageHeap has the last entry of the page on top.
type pageHeap []Entry

func (h pageHeap) Len() int           { return len(h) }
func (h pageHeap) Less(i, j int) bool { return compareTo(&h[i], h[j].Client, h[j].Key) > 0 }
func (h pageHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *pageHeap) Push(e any)        { *h = append(*h, e.(Entry)) }
func (h *pageHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	*h = (*h)[:last]
	return e
}
