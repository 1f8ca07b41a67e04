package app

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// renewals that are due in the same time of this length share a call.
	renewSlack = 100 * time.Millisecond
	// A call that failed is repeated after minRetry, and then after twice the time of before, up to maxRetry.
	minRetry, maxRetry = 100 * time.Millisecond, 2 * time.Second
	// releaseAgain is how long after its release a lost take's permit is released again: a server that stalled may carry out the
	// take after the release.
	releaseAgain = 500 * time.Millisecond
	// lostFor is how long a lost take's permit is released at least, if the store does not answer.
	lostFor = 5 * time.Minute
	// defaultMaxEnding bounds the permits that have yet to be released. Those beyond it end with their lease, and are reported.
	defaultMaxEnding = 100_000
	// maxSent bounds the permits in one call.
	maxSent = 512
)

// errTooManyEnding is why a permit is not released: the store has failed for long, and maxEnding others wait to be released.
var errTooManyEnding = fmt.Errorf("%w: too many permits wait to be released, and this one ends with its lease", ports.ErrOverloaded)

// keeper keeps the permits of requests with Hold until they end: it renews them in the background, and releases them, also when
// the store fails meanwhile. It releases those of lost takes, too. It has a goroutine only while there is something to do.
//
// The observer learns of the first failure of each renewal and each release, and of each release that is given up: no one else
// would.
type keeper struct {
	limiter   *RateLimiter
	maxEnding int

	mu              sync.Mutex
	held            map[string]*kept // by ID, until their end
	due             dueHeap          // all that are to be renewed or released, but for those that are being sent
	ending          int              // the number of permits that are to be released
	timer           *time.Timer
	closing, closed bool
	idle            chan struct{} // of a Close that waits: closed when none is ending
}

// kept is one permit.
type kept struct {
	permit
	text       *permitText // nil if it is lost
	lease      time.Duration
	due        time.Duration // when it is renewed or released next, by the limiter's clock
	until      time.Duration // when its lease is over for certain
	retry      time.Duration // the wait after the next failure; 0: none has failed
	difference domain.Tokens // of the release
	index      int           // in the heap, or -1

	ending bool // it is to be released
	lost   bool // whether it was taken is not known
	again  bool // the lost permit has been released once
	ended  bool // it is not held any more: it has expired in every group, or its take was undone
	// expired says that it has expired in a group, and was counted. In the others it is renewed as before.
	expired bool
}

// add adds a permit, and renews it until end. While the keeper closes, the permit is released instead, as all others are, and its
// request pays what was taken. After that it ends with its lease.
func (k *keeper) add(p permit, text *permitText, lease time.Duration) {
	now := k.limiter.clock()
	k.mu.Lock()
	if k.closing {
		k.mu.Unlock()
		k.lost(p)
		return
	}
	if k.held == nil {
		k.held = make(map[string]*kept)
	}
	h := &kept{permit: p, text: text, lease: lease, due: (now + lease/3).Truncate(renewSlack), until: now + lease, index: -1}
	k.held[p.id] = h
	k.pushLocked(h, now)
	k.mu.Unlock()
	k.limiter.holds.PermitsHeld(p.policy, 1)
}

// lost releases a permit that may have been taken.
func (k *keeper) lost(p permit) {
	now := k.limiter.clock()
	k.mu.Lock()
	tooMany := k.ending >= k.maxEnding
	if !k.closed && !tooMany {
		k.ending++
		k.pushLocked(&kept{permit: p, due: now, until: now + max(p.lease(), lostFor), ending: true, lost: true, index: -1}, now)
	}
	k.mu.Unlock()
	if tooMany {
		k.failed(p.policy, errTooManyEnding)
	}
}

// failed reports a failure that no caller learns of. The caller must not hold the lock.
func (k *keeper) failed(policyName string, cause error) {
	k.limiter.observer.StoreFailed(policyName, "", cause)
}

// end releases a permit. cost is as for Release. It waits for the store's answer, so that the holder's next request finds the permit
// free. It does not wait for a renewal under way: one that comes after the release finds no permit, and adds none.
func (k *keeper) end(id string, cost domain.Tokens) {
	k.mu.Lock()
	h := k.held[id]
	ending := h != nil && k.endLocked(h, cost)
	k.mu.Unlock()
	if h != nil {
		k.limiter.holds.PermitsHeld(h.policy, -1)
	}
	switch {
	case ending:
		k.release([]*kept{h})
	case h != nil:
		k.failed(h.policy, errTooManyEnding)
	}
}

// endLocked says that a permit is to be released. It reports false if too many are: this one then ends with its lease.
func (k *keeper) endLocked(h *kept, cost domain.Tokens) bool {
	delete(k.held, h.id)
	k.removeLocked(h)
	if k.ending >= k.maxEnding {
		return false
	}
	k.ending++
	now := k.limiter.clock()
	h.ending, h.difference, h.due, h.retry = true, h.permit.difference(min(max(cost, ports.Unsettled), domain.MaxCost)), now, 0
	return true
}

// forget ends the renewals of a permit that its holder releases itself.
func (k *keeper) forget(id string) {
	k.mu.Lock()
	h := k.held[id]
	if h != nil {
		delete(k.held, id)
		k.removeLocked(h)
	}
	k.mu.Unlock()
	if h != nil {
		k.limiter.holds.PermitsHeld(h.policy, -1)
	}
}

// undone says that the take of a permit is undone, which ends the permit. It does not count as expired.
func (k *keeper) undone(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[id]; h != nil {
		h.ended = true
		k.removeLocked(h)
	}
}

func (k *keeper) pushLocked(h *kept, now time.Duration) {
	heap.Push(&k.due, h)
	if h.index == 0 {
		k.armLocked(now)
	}
}

func (k *keeper) removeLocked(h *kept) {
	if h.index >= 0 {
		heap.Remove(&k.due, h.index)
	}
}

// armLocked has tick called when the next permit is due.
func (k *keeper) armLocked(now time.Duration) {
	if len(k.due) == 0 {
		return
	}
	wait := max(k.due[0].due-now, 0)
	if k.timer == nil {
		k.timer = time.AfterFunc(wait, k.tick)
	} else {
		k.timer.Reset(wait)
	}
}

// tick sends what is due. It runs in a goroutine of its own each time, so a shard that does not answer delays no other.
func (k *keeper) tick() {
	now := k.limiter.clock()
	var renewals, releases []*kept
	k.mu.Lock()
	for len(k.due) > 0 && k.due[0].due <= now && len(renewals)+len(releases) < maxSent {
		h := heap.Pop(&k.due).(*kept)
		if h.ending {
			releases = append(releases, h)
		} else {
			renewals = append(renewals, h)
		}
	}
	k.armLocked(now)
	k.mu.Unlock()
	if len(renewals) > 0 {
		go k.renew(renewals)
	}
	if len(releases) > 0 {
		k.release(releases)
	}
}

func (k *keeper) renew(list []*kept) {
	calls := make([]permitCall, len(list))
	for i, h := range list {
		calls[i].permit = &h.permit
	}
	k.limiter.askAll(context.Background(), domain.OpRenew, calls)
	now := k.limiter.clock()
	var expired []*kept
	var failed []*permitCall
	k.mu.Lock()
	for i, h := range list {
		if calls[i].renewed {
			h.until = now + h.lease
		}
		if h.ended || k.held[h.id] != h {
			continue // it has ended meanwhile
		}
		if calls[i].err == nil && !calls[i].held && !h.expired {
			h.expired = true
			expired = append(expired, h)
		}
		switch {
		case calls[i].err != nil:
			if h.retry == 0 {
				failed = append(failed, &calls[i])
			}
			h.due = now + h.nextRetry()
		case !calls[i].renewed:
			h.ended = true
			continue
		default:
			h.retry, h.due = 0, (now + h.lease/3).Truncate(renewSlack)
		}
		k.pushLocked(h, now)
	}
	k.mu.Unlock()
	k.report(expired, failed)
}

// report notifies the observer of permits that have expired, and of calls that failed.
func (k *keeper) report(expired []*kept, failed []*permitCall) {
	for _, h := range expired {
		k.limiter.holds.PermitExpired(h.policy)
	}
	for _, c := range failed {
		k.failed(c.permit.policy, c.err)
	}
}

func (k *keeper) release(list []*kept) {
	calls := make([]permitCall, len(list))
	for i, h := range list {
		calls[i].permit, calls[i].difference = &h.permit, h.difference
		if h.difference != 0 {
			calls[i].permit = k.limiter.underToday(h.permit, h.text)
		}
	}
	k.limiter.release(context.Background(), calls)
	now := k.limiter.clock()
	var expired []*kept
	var failed []*permitCall
	k.mu.Lock()
	for i, h := range list {
		failure := calls[i].err
		sendAgain := failure != nil && now < h.until && !errors.Is(failure, ports.ErrInvalidTake) && !k.closed
		if failure != nil && (!sendAgain || h.retry == 0 && !h.lost) { // of a lost take, the failure has been reported
			failed = append(failed, &calls[i])
		}
		switch {
		case sendAgain:
			h.due = now + h.nextRetry()
			k.pushLocked(h, now)
			continue
		case failure == nil && h.lost && !h.again && !k.closing:
			h.again, h.due = true, now+releaseAgain
			k.pushLocked(h, now)
			continue
		case failure == nil && !calls[i].held && !h.lost && !h.ended && !h.expired && h.retry == 0:
			expired = append(expired, h)
		}
		k.doneLocked()
	}
	k.mu.Unlock()
	k.report(expired, failed)
}

// nextRetry returns how long to wait after a failure.
func (h *kept) nextRetry() time.Duration {
	h.retry = min(max(2*h.retry, minRetry), maxRetry)
	return h.retry
}

func (k *keeper) doneLocked() {
	if k.ending--; k.ending == 0 && k.idle != nil {
		close(k.idle)
		k.idle = nil
	}
}

// close ends every permit, and waits for that until ctx ends.
func (k *keeper) close(ctx context.Context) error {
	k.mu.Lock()
	k.closing = true
	ended := make([]*kept, 0, len(k.held))
	tooMany := 0
	for _, h := range k.held {
		ended = append(ended, h)
		if k.endLocked(h, ports.Unsettled) {
			k.pushLocked(h, h.due)
		} else {
			tooMany++
		}
	}
	k.mu.Unlock()
	for _, h := range ended {
		k.limiter.holds.PermitsHeld(h.policy, -1)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.ending > 0 && ctx.Err() == nil {
		if k.idle == nil {
			k.idle = make(chan struct{})
		}
		idle := k.idle
		k.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
		}
		k.mu.Lock()
	}
	k.closed, k.due = true, nil
	if k.timer != nil {
		k.timer.Stop()
	}
	if left := k.ending + tooMany; left > 0 {
		return fmt.Errorf("%d permits stay held until their leases end: %w", left, cmp.Or(ctx.Err(), errTooManyEnding))
	}
	return nil
}

// dueHeap implements heap.Interface: the permit that is due first is at 0.
type dueHeap []*kept

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	p := x.(*kept)
	p.index = len(*h)
	*h = append(*h, p)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	last.index = -1
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
