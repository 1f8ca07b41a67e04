package batch

// queue is the items that wait, in the order in which they joined, as a linked list: items leave it at its front, or anywhere if
// their caller gives up. The zero value is empty. It is not safe for concurrent use.
type queue struct {
	first, last *item
	groups      int // of all items
}

// links are an item's place in a queue.
type links struct {
	before, after *item
	queued        bool
}

func (q *queue) push(it *item) {
	it.links = links{before: q.last, queued: true}
	if q.last == nil {
		q.first = it
	} else {
		q.last.after = it
	}
	q.last = it
	q.groups += len(it.groups)
}

// remove reports false if the item is not in the queue.
func (q *queue) remove(it *item) bool {
	if !it.queued {
		return false
	}
	if it.before == nil {
		q.first = it.after
	} else {
		it.before.after = it.after
	}
	if it.after == nil {
		q.last = it.before
	} else {
		it.after.before = it.before
	}
	it.links = links{}
	q.groups -= len(it.groups)
	return true
}
