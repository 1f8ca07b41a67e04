// Package top finds the clients with the most requests and the most denials of each policy, over the last minute.
//
// Memory is bounded whatever clients send: about 1 MiB for a policy and 35 MiB in all, plus the keys. Counts are estimates
// with a stated error. Clients are spread over eight parts, each with its own lock and summaries; a count is too high by at
// most 1/64 of the requests of its part in the window.
package top

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	parts = 8
	// The window consists of spans, and advances by one span at a time.
	spans = 6
	span  = 10 * time.Second
	// maxPolicies is how many policies are counted at once. Others are not counted until one of these is idle.
	maxPolicies = 32
	// maxKey is how many bytes of a key are kept. Keys that differ only behind them are counted as one.
	maxKey = 256
)

// Top counts decisions by client. Make it with New.
type Top struct {
	seed maphash.Seed
	// current is the number of the current span.
	current atomic.Int64
	// spanStart is when the current span began, in nanoseconds after started.
	spanStart atomic.Int64
	started   time.Time
	now       func() time.Time
	parts     [parts]part

	mu           sync.Mutex
	mostPolicies int
	// counted has the number of windows of each policy that has any, over all parts.
	counted map[string]int

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

	_ [40]byte // fills a cache line, since other processors lock the neighbouring parts
}

// window holds the last spans of one policy in one part.
type window [spans]struct {
	number            int64 // of the span that the summaries are about
	requests, denials summary
}

// LimitPolicies sets how many policies are counted at once; it is 32 before. Others are not counted until one of these is idle.
func (t *Top) LimitPolicies(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mostPolicies = n
}

// New returns a Top and starts its goroutine. Close it after use.
func New() *Top {
	t := newTop(time.Now)
	t.stopped.Go(t.slide)
	return t
}

func newTop(now func() time.Time) *Top {
	t := &Top{
		seed: maphash.MakeSeed(), now: now, started: now(), counted: make(map[string]int), mostPolicies: maxPolicies, stop: make(chan struct{}),
	}
	t.current.Store(spans) // so that the spans of a new window count as over
	for i := range t.parts {
		t.parts[i].policies = make(map[string]*window)
	}
	return t
}

// slide starts the spans, so that no decision needs to read a clock.
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
	t.spanStart.Store(int64(t.now().Sub(t.started)))
	number := t.current.Add(1)
	for i := range t.parts {
		t.dropIdle(&t.parts[i], number)
	}
}

// dropIdle drops the windows of a part that have no decisions.
func (t *Top) dropIdle(p *part, number int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, w := range p.policies {
		if w.idle(number) {
			delete(p.policies, name)
			t.release(name)
		}
	}
}

// admit reports whether a part may have a window for a policy, and counts it. The part is locked, so that no window is there
// that is not counted.
func (t *Top) admit(policyName string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counted[policyName] == 0 && len(t.counted) >= t.mostPolicies {
		return false
	}
	t.counted[policyName]++
	return true
}

// release gives back what admit has counted.
func (t *Top) release(policyName string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counted[policyName]--; t.counted[policyName] == 0 {
		delete(t.counted, policyName)
	}
}

// Close ends the goroutine. The window does not advance any more.
func (t *Top) Close() error {
	t.once.Do(func() { close(t.stop) })
	t.stopped.Wait()
	return nil
}

// Decided implements ports.Observer.
func (t *Top) Decided(_ *policy.Request, d *decision.Decision) {
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
		s.requests.reset()
		s.denials.reset()
	}
	s.requests.add(c)
	if d.Outcome == decision.OutcomeDenied || d.Outcome == decision.OutcomeBlocked {
		s.denials.add(c)
	}
}

// StoreFailed implements ports.Observer. It does nothing, since it does not name a client.
func (t *Top) StoreFailed(string, policy.FailureMode, error) {}

// idle reports whether the window has no decisions.
func (w *window) idle(number int64) bool {
	for i := range w {
		if w[i].number > number-spans {
			return false
		}
	}
	return true
}
