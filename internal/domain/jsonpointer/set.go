package jsonpointer

// Set is what a [Scanner] looks for: a list of fields, each with the pointers at any of which its value may be. It does not
// change, so scanners may share it.
type Set struct {
	root    *node
	fieldOf []int // by slot; a slot is a pointer's place in Scanner.values
	fields  int
	longest int // of the names, in bytes
	depth   int
	// elements: an array at the top is not a value of its own, but a sequence of texts.
	elements bool
}

// node is a place in JSON texts. The slots of its subtree are first to end; its own are the first len(fields) of them.
type node struct {
	name       string
	index      int // that name means in an array, or -1
	children   []*node
	fields     []int
	first, end int
}

// NewSet returns a Set of fields. A field is known by its index in the arguments.
func NewSet(fields ...[]Pointer) *Set {
	s := &Set{root: &node{index: -1}, fields: len(fields), elements: true}
	for field, pointers := range fields {
		for _, p := range pointers {
			s.add(p, field)
		}
	}
	s.number(s.root)
	return s
}

func (s *Set) add(p Pointer, field int) {
	n := s.root
	for _, name := range p.names {
		s.longest = max(s.longest, len(name))
		n = n.childFor(name)
	}
	if n == s.root {
		return
	}
	n.fields = append(n.fields, field)
	s.depth = max(s.depth, len(p.names))
	s.elements = s.elements && Index(p.names[0]) < 0
}

// childFor returns the child with a name. It makes one if there is none.
func (n *node) childFor(name string) *node {
	for _, c := range n.children {
		if c.name == name {
			return c
		}
	}
	c := &node{name: name, index: Index(name)}
	n.children = append(n.children, c)
	return c
}

func (s *Set) number(n *node) {
	n.first = len(s.fieldOf)
	s.fieldOf = append(s.fieldOf, n.fields...)
	for _, c := range n.children {
		s.number(c)
	}
	n.end = len(s.fieldOf)
}

// named returns the child that is the member with a name, or nil.
func (n *node) named(name []byte) *node {
	for _, c := range n.children {
		if c.name == string(name) {
			return c
		}
	}
	return nil
}

// at returns the child that is an element of an array, or nil.
func (n *node) at(index int) *node {
	for _, c := range n.children {
		if c.index == index {
			return c
		}
	}
	return nil
}
