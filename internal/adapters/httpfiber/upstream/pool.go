package upstream

import (
	"sync"
	"time"
)

// pool keeps connections that are not in use. Since an idle connection is taken before a new one is opened, there are
// never more connections than slots.
type pool struct {
	slots chan struct{} // one for each exchange
	keep  time.Duration

	mu     sync.Mutex
	idle   []*conn // the longest idle first
	sweep  *time.Timer
	closed bool
}

func newPool(most int, keep time.Duration) *pool {
	return &pool{slots: make(chan struct{}, most), keep: keep}
}

// acquire waits for a slot, and reports whether one came in time.
func (p *pool) acquire(until time.Time) bool {
	select {
	case p.slots <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case p.slots <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

func (p *pool) release() { <-p.slots }

// pop takes the connection that was used last: the rest grow old and are closed, so that there are no more than the
// load needs. Nil if there is none.
func (p *pool) pop() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.idle) - 1
	if last < 0 {
		return nil
	}
	c := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	return c
}

// put gives a connection and its slot back.
func (p *pool) put(c *conn) {
	defer p.release()
	c.idleSince = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.Close()
		return
	}
	p.idle = append(p.idle, c)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(p.keep, p.closeOld)
	}
}

// drop closes a connection that cannot be used again.
func (p *pool) drop(c *conn) {
	_ = c.Close()
	p.release()
}

// closeOld closes what has been idle for long, and comes back while anything is.
func (p *pool) closeOld() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, old := time.Now(), 0
	for old < len(p.idle) && now.Sub(p.idle[old].idleSince) >= p.keep {
		_ = p.idle[old].Close()
		old++
	}
	rest := copy(p.idle, p.idle[old:])
	clear(p.idle[rest:])
	p.idle = p.idle[:rest]
	if p.closed || rest == 0 {
		p.sweep = nil
		return
	}
	p.sweep.Reset(p.keep - now.Sub(p.idle[0].idleSince))
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.sweep != nil {
		p.sweep.Stop()
	}
	for _, c := range p.idle {
		_ = c.Close()
	}
	p.idle = nil
}

func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.slots) + len(p.idle)
}
