// Package top finds the clients that ask most and are denied most, per policy, over the last minute.
//
// Memory is bounded, whatever clients send: some 35 MiB at most, about 1 MiB for one policy, and the keys. Counts are
// estimates of stated error; see summary. Clients are spread over parts with a lock and summaries of their own, so
// that a count is too high by at most 1/64 of what the clients of its part, an eighth of all, did in the window.
package top

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	parts = 8
	// The window slides by one of its spans at a time.
	spans = 6
	span  = 10 * time.Second
	// maxPolicies is how many policies are watched at once. Others are not, until one of these is idle.
	maxPolicies = 32
	// maxKey is how many bytes of a key are kept. Keys that differ later count together.
	maxKey = 256
)

// Top watches decisions. Make it with New.
type Top struct {
	seed maphash.Seed
	// current is the number of the span that is being counted.
	current atomic.Int64
	// began is when it began, after started, in nanoseconds.
	began   atomic.Int64
	started time.Time
	now     func() time.Time
	parts   [parts]part

	mu sync.Mutex
	// watched are the policies that parts may have a window for.
	watched map[string]bool

	stop    chan struct{}
	stopped sync.WaitGroup
	once    sync.Once
}

var (
	_ ports.Observer  = (*Top)(nil)
	_ ports.TopSource = (*Top)(nil)
)

type part struct {
	mu       sync.Mutex
	policies map[string]*window

	_ [40]byte // a cache line, since other processors lock the neighbours
}

// window is one policy's last spans in one part.
type window [spans]struct {
	number            int64 // of the span that the summaries are about
	requests, denials summary
}

// New begins to watch. Close ends it.
func New() *Top {
	t := newTop(time.Now)
	t.stopped.Go(t.slide)
	return t
}

func newTop(now func() time.Time) *Top {
	t := &Top{
		seed: maphash.MakeSeed(), now: now, started: now(), watched: make(map[string]bool), stop: make(chan struct{}),
	}
	t.current.Store(spans) // so that a new window is about the time before
	for i := range t.parts {
		t.parts[i].policies = make(map[string]*window)
	}
	return t
}

// slide begins a span after the other. No decision need read a clock.
func (t *Top) slide() {
	ticker := time.NewTicker(span)
	defer ticker.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-ticker.C:
			t.next()
		}
	}
}

func (t *Top) next() {
	t.began.Store(int64(t.now().Sub(t.started)))
	number := t.current.Add(1)
	busy := map[string]bool{}
	for i := range t.parts {
		t.parts[i].dropIdle(number, busy)
	}
	t.mu.Lock()
	t.watched = busy
	t.mu.Unlock()
}

// dropIdle drops the windows that are empty and adds the names of the others to busy.
func (p *part) dropIdle(number int64, busy map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, w := range p.policies {
		if w.idle(number) {
			delete(p.policies, name)
		} else {
			busy[name] = true
		}
	}
}

// admit reports whether a policy may be watched.
func (t *Top) admit(policy string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.watched[policy] && len(t.watched) >= maxPolicies {
		return false
	}
	t.watched[policy] = true
	return true
}

// Close ends the goroutine. The window slides no more.
func (t *Top) Close() error {
	t.once.Do(func() { close(t.stop) })
	t.stopped.Wait()
	return nil
}

// Decided implements ports.Observer.
func (t *Top) Decided(_ *domain.Request, d *domain.Decision) {
	c := client{key: d.Client, byAddress: d.ClientIsAddress}
	if len(c.key) > maxKey {
		c.key = strings.Clone(c.key[:maxKey])
	}
	p := &t.parts[maphash.String(t.seed, c.key)%parts]
	number := t.current.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	w, ok := p.policies[d.Policy]
	if !ok {
		if !t.admit(d.Policy) {
			return
		}
		w = new(window)
		p.policies[d.Policy] = w
	}
	s := &w[number%spans]
	if s.number != number {
		s.number = number
		s.requests.forget()
		s.denials.forget()
	}
	s.requests.add(c)
	if d.Outcome == domain.OutcomeDenied || d.Outcome == domain.OutcomeBlocked {
		s.denials.add(c)
	}
}

// StoreFailed implements ports.Observer: it is about no client.
func (t *Top) StoreFailed(string, domain.FailureMode, error) {}

func (w *window) idle(number int64) bool {
	for i := range w {
		if w[i].number > number-spans {
			return false
		}
	}
	return true
}
