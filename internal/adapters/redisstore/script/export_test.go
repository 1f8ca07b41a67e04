package script

// Next returns the request that follows in the same group; nil after the last.
func (g *Group) Next() *Group { return g.next }
