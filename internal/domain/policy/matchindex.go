package policy

import (
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// noPolicy means that no policy matches. It sorts after every policy.
const noPolicy int32 = math.MaxInt32

// httpIndex finds the first policy for a method, a host, a path and headers. It has a map of hosts, and for each host a tree of
// path segments. Where a path ends there is an index of the headers that policies ask for.
type httpIndex struct {
	anyHost *pathNode
	hosts   map[string]*pathNode // in lower case
	below   map[string]*pathNode // by the name after *., in lower case
}

func (x *httpIndex) add(m *Match, order int32) {
	name := strings.ToLower(m.Host)
	parent, below := strings.CutPrefix(name, "*.")
	switch {
	case name == "":
		if x.anyHost == nil {
			x.anyHost = newPathNode()
		}
		x.anyHost.add(m, order)
	case below:
		nodeAt(&x.below, parent, newPathNode).add(m, order)
	default:
		nodeAt(&x.hosts, name, newPathNode).add(m, order)
	}
}

// nodeAt returns the node of a key. It adds the node if there is none.
func nodeAt[K comparable, N any](nodes *map[K]*N, key K, newNode func() *N) *N {
	if *nodes == nil {
		*nodes = map[K]*N{}
	}
	if (*nodes)[key] == nil {
		(*nodes)[key] = newNode()
	}
	return (*nodes)[key]
}

// search is the search for the policy of one request.
type search struct {
	facts  Facts
	method string
	// failed is the first error of facts, and at the lowest policy that might have matched otherwise.
	failed error
	at     int32
}

// find returns the order of the first policy, or noPolicy. The error is that of a header on which the result depends.
func (x *httpIndex) find(req *Request) (int32, error) {
	s := search{facts: sentHeaders{req}, method: matchedMethod(req.Method)}
	best := x.search(&s, req)
	if s.failed != nil && s.at < best {
		return noPolicy, s.failed
	}
	return best, nil
}

func (x *httpIndex) search(s *search, req *Request) int32 {
	path := strings.TrimSuffix(strings.TrimPrefix(req.Path, "/"), "/")
	best := x.anyHost.find(s, path, path != "", noPolicy)
	if len(x.hosts)+len(x.below) == 0 {
		return best
	}
	var buf [longestHost]byte
	host, ok := lowerHost(buf[:0], req.Host)
	if !ok {
		return best // longer than every host of a policy
	}
	best = x.hosts[string(host)].find(s, path, path != "", best)
	for i := 0; i < len(host) && len(x.below) > 0; i++ {
		if host[i] == '.' && i > 0 {
			best = x.below[string(host[i+1:])].find(s, path, path != "", best)
		}
	}
	return best
}

// sentHeaders are the Facts for a match: the headers of a request, whoever sent it.
type sentHeaders struct{ req *Request }

// Value implements Facts.
func (h sentHeaders) Value(source clientkey.Source) (string, error) {
	if h.req.Lookup == nil {
		return "", nil
	}
	value, err := h.req.Lookup(source)
	if errors.Is(err, domain.ErrNoValue) {
		return "", nil
	}
	return value, err
}

// Elements implements Facts.
func (h sentHeaders) Elements(clientkey.Source) []string { return nil }

// Address implements Facts.
func (h sentHeaders) Address() netip.Addr { return netip.Addr{} }

// matchedMethod returns GET for HEAD. Otherwise a client could use HEAD as a second allowance for one resource.
func matchedMethod(method string) string {
	if method == "HEAD" {
		return "GET"
	}
	return method
}

// lowerHost appends a request's host in lower case, without its port and the final dot. It reports false if the host
// is longer than the capacity of dst.
func lowerHost(dst []byte, host string) ([]byte, bool) {
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		host = host[:colon]
	}
	host = strings.TrimSuffix(host, ".")
	if len(host) > cap(dst) {
		return nil, false
	}
	for i := range len(host) {
		c := host[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst, true
}

// pathNode is one segment of a tree of path patterns.
type pathNode struct {
	next   map[string]*pathNode // by the next segment, decoded
	any    *pathNode            // the next segment is *
	ends   pathEnds             // patterns that end here
	deep   pathEnds             // patterns that have ** here
	lowest int32                // the first policy in this subtree
}

// pathEnds are the policies whose patterns end at one node.
type pathEnds struct {
	plain []pathEnd
	// headers has those that ask for headers; nil: there are none.
	headers *conditionIndex
}

type pathEnd struct {
	order   int32
	methods []string // none: any
}

func (e *pathEnds) add(m *Match, order int32) {
	if len(m.Headers) == 0 {
		e.plain = append(e.plain, pathEnd{order, m.Methods})
		return
	}
	if e.headers == nil {
		e.headers = new(conditionIndex)
	}
	e.headers.add(order, m.Methods, m.Headers)
}

func newPathNode() *pathNode { return &pathNode{lowest: noPolicy} }

func (n *pathNode) add(m *Match, order int32) {
	path := strings.TrimSuffix(strings.TrimPrefix(m.Path, "/"), "/")
	if m.Path == "" {
		path = "**"
	}
	n.lowest = min(n.lowest, order)
	for path != "" {
		var segment string
		segment, path, _ = strings.Cut(path, "/")
		if segment == "**" {
			n.deep.add(m, order)
			return
		}
		n = n.child(segment)
		n.lowest = min(n.lowest, order)
	}
	n.ends.add(m, order)
}

// child returns the node of a pattern's segment. It adds the node if there is none.
func (n *pathNode) child(segment string) *pathNode {
	if segment == "*" {
		if n.any == nil {
			n.any = newPathNode()
		}
		return n.any
	}
	return nodeAt(&n.next, string(appendUnescaped(nil, segment)), newPathNode)
}

// find returns the first policy in this subtree that matches the method and the rest of the path, if it comes before
// best; else best. more is false at the end of the path.
func (n *pathNode) find(s *search, path string, more bool, best int32) int32 {
	if n == nil || n.lowest >= best {
		return best
	}
	best = n.deep.find(s, best)
	if !more {
		return n.ends.find(s, best)
	}
	segment, rest, more := strings.Cut(path, "/")
	if n.next != nil {
		best = n.literal(segment).find(s, rest, more, best)
	}
	return n.any.find(s, rest, more, best)
}

// literal returns the node of a segment. Segments are compared decoded, because servers read %40 as @.
func (n *pathNode) literal(segment string) *pathNode {
	if strings.IndexByte(segment, '%') < 0 {
		return n.next[segment]
	}
	if len(segment) > 3*maxPathPattern {
		return nil // longer than every pattern
	}
	var buf [256]byte
	return n.next[string(appendUnescaped(buf[:0], segment))]
}

// find returns the first policy that matches the method and the headers, if it comes before best; else best.
func (e *pathEnds) find(s *search, best int32) int32 {
	for i := range e.plain {
		if e.plain[i].order >= best {
			break // they are sorted by order
		}
		if len(e.plain[i].methods) == 0 || slices.Contains(e.plain[i].methods, s.method) {
			best = e.plain[i].order
			break
		}
	}
	if e.headers == nil {
		return best
	}
	first, at, err := e.headers.find(s.facts, s.method, best)
	if err != nil && (s.failed == nil || at < s.at) {
		s.failed, s.at = err, at
	}
	return first
}

// appendUnescaped appends s with its percent escapes decoded. Text that is no escape is not changed.
func appendUnescaped(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, ok1 := hexValue(s[i+1])
			lo, ok2 := hexValue(s[i+2])
			if ok1 && ok2 {
				dst = append(dst, hi<<4|lo)
				i += 2
				continue
			}
		}
		dst = append(dst, s[i])
	}
	return dst
}

func hexValue(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// descriptorNode is one entry of a tree of descriptors.
type descriptorNode struct {
	fixed map[DescriptorEntry]*descriptorNode
	open  map[string]*descriptorNode // by the entry's key; any value
	end   int32
}

func newDescriptorNode() *descriptorNode { return &descriptorNode{end: noPolicy} }

func (n *descriptorNode) add(patterns []DescriptorPattern, order int32) {
	for _, p := range patterns {
		if p.Value == nil {
			n = nodeAt(&n.open, p.Key, newDescriptorNode)
		} else {
			n = nodeAt(&n.fixed, DescriptorEntry{p.Key, *p.Value}, newDescriptorNode)
		}
	}
	n.end = min(n.end, order)
}

func (n *descriptorNode) find(entries []DescriptorEntry, best int32) int32 {
	switch {
	case n == nil:
		return best
	case len(entries) == 0:
		return min(best, n.end)
	}
	best = n.fixed[entries[0]].find(entries[1:], best)
	return n.open[entries[0].Key].find(entries[1:], best)
}
