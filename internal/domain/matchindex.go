package domain

import (
	"math"
	"slices"
	"strings"
)

// noPolicy is the place of a policy that is not there: behind all others.
const noPolicy int32 = math.MaxInt32

// httpIndex finds the first policy for a method, a host and a path: hosts in maps, and for each a tree of the paths'
// segments.
type httpIndex struct {
	anyHost *pathNode
	hosts   map[string]*pathNode // in lower case
	below   map[string]*pathNode // by the name after *., in lower case
}

func (x *httpIndex) add(m *Match, order int32) {
	name := strings.ToLower(m.Host)
	parent, below := strings.CutPrefix(name, "*.")
	switch {
	case name == "" && x.anyHost == nil:
		x.anyHost = newPathNode()
		fallthrough
	case name == "":
		x.anyHost.add(m, order)
	case below:
		x.below = addPath(x.below, parent, m, order)
	default:
		x.hosts = addPath(x.hosts, name, m, order)
	}
}

func addPath(hosts map[string]*pathNode, name string, m *Match, order int32) map[string]*pathNode {
	if hosts == nil {
		hosts = map[string]*pathNode{}
	}
	if hosts[name] == nil {
		hosts[name] = newPathNode()
	}
	hosts[name].add(m, order)
	return hosts
}

func (x *httpIndex) find(req *Request) int32 {
	path := strings.TrimSuffix(strings.TrimPrefix(req.Path, "/"), "/")
	method := matchedMethod(req.Method)
	best := x.anyHost.find(method, path, path != "", noPolicy)
	if len(x.hosts)+len(x.below) == 0 {
		return best
	}
	var room [longestHost]byte
	host, ok := lowerHost(room[:0], req.Host)
	if !ok {
		return best // longer than any name
	}
	best = x.hosts[string(host)].find(method, path, path != "", best)
	for i := 0; i < len(host) && len(x.below) > 0; i++ {
		if host[i] == '.' && i > 0 {
			best = x.below[string(host[i+1:])].find(method, path, path != "", best)
		}
	}
	return best
}

// matchedMethod takes HEAD for GET: else it would be a second allowance for the same resource.
func matchedMethod(method string) string {
	if method == "HEAD" {
		return "GET"
	}
	return method
}

// lowerHost appends a request's host in lower case, without its port and the final dot; false if it does not fit.
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
	ends   []pathEnd            // patterns that end here
	deep   []pathEnd            // patterns that have ** here
	lowest int32                // the first policy of all below
}

type pathEnd struct {
	order   int32
	methods []string // none: any
}

func newPathNode() *pathNode { return &pathNode{lowest: noPolicy} }

func (n *pathNode) add(m *Match, order int32) {
	end := pathEnd{order, m.Methods}
	path := strings.TrimSuffix(strings.TrimPrefix(m.Path, "/"), "/")
	if m.Path == "" {
		path = "**"
	}
	n.lowest = min(n.lowest, order)
	for path != "" {
		var segment string
		segment, path, _ = strings.Cut(path, "/")
		if segment == "**" {
			n.deep = append(n.deep, end)
			return
		}
		n = n.child(segment)
		n.lowest = min(n.lowest, order)
	}
	n.ends = append(n.ends, end)
}

// child returns the node of a pattern's segment, and makes it if need be.
func (n *pathNode) child(segment string) *pathNode {
	if segment == "*" {
		if n.any == nil {
			n.any = newPathNode()
		}
		return n.any
	}
	if n.next == nil {
		n.next = map[string]*pathNode{}
	}
	name := string(appendUnescaped(nil, segment))
	if n.next[name] == nil {
		n.next[name] = newPathNode()
	}
	return n.next[name]
}

// find returns the first policy of this node and below that comes before best and takes the method and what is left of
// the path; more is false when nothing is left.
func (n *pathNode) find(method, path string, more bool, best int32) int32 {
	if n == nil || n.lowest >= best {
		return best
	}
	best = firstEnd(n.deep, method, best)
	if !more {
		return firstEnd(n.ends, method, best)
	}
	segment, rest, more := strings.Cut(path, "/")
	if n.next != nil {
		best = n.literal(segment).find(method, rest, more, best)
	}
	return n.any.find(method, rest, more, best)
}

// literal returns the node of a segment, which is compared decoded: servers take %40 for @.
func (n *pathNode) literal(segment string) *pathNode {
	if strings.IndexByte(segment, '%') < 0 {
		return n.next[segment]
	}
	if len(segment) > 3*maxPathPattern {
		return nil // no pattern has so long a one
	}
	var room [256]byte
	return n.next[string(appendUnescaped(room[:0], segment))]
}

func firstEnd(ends []pathEnd, method string, best int32) int32 {
	for i := range ends {
		if ends[i].order >= best {
			break // they are in order
		}
		if len(ends[i].methods) == 0 || slices.Contains(ends[i].methods, method) {
			return ends[i].order
		}
	}
	return best
}

// appendUnescaped decodes percent escapes; what is none stands as it is.
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

func newDescriptorNode() *descriptorNode {
	return &descriptorNode{fixed: map[DescriptorEntry]*descriptorNode{}, open: map[string]*descriptorNode{}, end: noPolicy}
}

func (n *descriptorNode) add(patterns []DescriptorPattern, order int32) {
	for _, p := range patterns {
		var child *descriptorNode
		if p.Value == nil {
			if child = n.open[p.Key]; child == nil {
				child = newDescriptorNode()
				n.open[p.Key] = child
			}
		} else {
			entry := DescriptorEntry{p.Key, *p.Value}
			if child = n.fixed[entry]; child == nil {
				child = newDescriptorNode()
				n.fixed[entry] = child
			}
		}
		n = child
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
