package domain

import (
	"container/heap"
	"slices"
	"strconv"
	"strings"
)

// Permit is one permit of a limit of [KindConcurrency].
type Permit struct {
	// ID names the permit. Whoever takes it chooses the ID before it asks, at random, so that a take whose answer is lost can be
	// undone.
	ID string
	// Expires is when the permit ends by itself.
	Expires Instant
}

// ValidPermitID reports whether s can name a permit: 1 to 64 letters, digits, dots, underscores and hyphens.
func ValidPermitID(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// NewPermitID returns the ID of a permit: a text that is random, what the request costs, and when it was asked for by the clock
// of the process that asks. The last two are for operators to read; nothing is decided by them.
func NewPermitID(random string, cost Tokens, asked Instant) string {
	return random + "." + strconv.FormatInt(int64(cost), 10) + "." + strconv.FormatInt(int64(asked), 10)
}

// ParsePermitID reads cost and time of what [NewPermitID] returns. ok is false for other texts.
func ParsePermitID(id string) (cost Tokens, asked Instant, ok bool) {
	parts := strings.Split(id, ".")
	if len(parts) != 3 {
		return 0, 0, false
	}
	c, errCost := strconv.ParseInt(parts[1], 10, 64)
	t, errTime := strconv.ParseInt(parts[2], 10, 64)
	return Tokens(c), Instant(t), errCost == nil && errTime == nil
}

// Permits are those that one client holds of one limit. The zero value holds none. It is not safe for concurrent use. A
// permit that has expired counts nowhere: it leaves before anything else happens.
type Permits struct {
	byExpiry permitHeap
	byID     map[string]*heldPermit
}

type heldPermit struct {
	Permit
	index int // in Permits.byExpiry
}

// Len is how many permits are kept: those held, and those that have expired since the last operation.
func (p *Permits) Len() int { return len(p.byExpiry) }

// Expire removes the permits that have expired at now.
func (p *Permits) Expire(now Instant) {
	for p.Len() > 0 && p.byExpiry[0].Expires <= now {
		p.remove(p.byExpiry[0])
	}
}

// state returns how many permits are held at now, and when the first expires.
func (p *Permits) state(now Instant) State {
	p.Expire(now)
	s := State{Amount: Credits(p.Len()), At: now, TokenCredits: 1}
	if p.Len() > 0 {
		s.At = p.byExpiry[0].Expires
	}
	return s
}

func (p *Permits) remove(h *heldPermit) {
	heap.Remove(&p.byExpiry, h.index)
	delete(p.byID, h.ID)
}

// end removes a permit, and reports whether it was held.
func (p *Permits) end(id string, now Instant) bool {
	h := p.byID[id]
	if h == nil {
		return false
	}
	p.remove(h)
	return h.Expires > now
}

func (p *Permits) held(id string, now Instant) bool {
	h := p.byID[id]
	return h != nil && h.Expires > now
}

// set adds a permit, or gives it a new expiry.
func (p *Permits) set(id string, expires Instant) {
	if h := p.byID[id]; h != nil {
		h.Expires = expires
		heap.Fix(&p.byExpiry, h.index)
		return
	}
	if p.byID == nil {
		p.byID = map[string]*heldPermit{}
	}
	h := &heldPermit{Permit: Permit{id, expires}}
	p.byID[id] = h
	heap.Push(&p.byExpiry, h)
}

// MaxListed is the most permits that [Permits.List] returns.
const MaxListed = 100

// List appends the permits to dst, at most [MaxListed]: those that expire first, of equals by ID.
func (p *Permits) List(dst []Permit) []Permit {
	candidates := make([]int, 0, MaxListed+1) // those in the heap whose parent is listed
	if p.Len() > 0 {
		candidates = append(candidates, 0)
	}
	for n := 0; n < MaxListed && len(candidates) > 0; n++ {
		first := 0
		for i := range candidates {
			if p.byExpiry.Less(candidates[i], candidates[first]) {
				first = i
			}
		}
		at := candidates[first]
		dst = append(dst, p.byExpiry[at].Permit)
		candidates = slices.Delete(candidates, first, first+1)
		for child := 2*at + 1; child <= 2*at+2 && child < p.Len(); child++ {
			candidates = append(candidates, child)
		}
	}
	return dst
}

// permitHeap implements heap.Interface: the permit that expires first is at 0, of equals by ID.
type permitHeap []*heldPermit

func (h permitHeap) Len() int { return len(h) }

func (h permitHeap) Less(i, j int) bool {
	if h[i].Expires != h[j].Expires {
		return h[i].Expires < h[j].Expires
	}
	return h[i].ID < h[j].ID
}

func (h permitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *permitHeap) Push(x any) {
	p := x.(*heldPermit)
	p.index = len(*h)
	*h = append(*h, p)
}

// Pop implements heap.Interface.
func (h *permitHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
