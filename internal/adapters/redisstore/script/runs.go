package script

// run is some groups, one after the other, that are alike: of one kind, and each stands for as many requests.
type run struct {
	kind, times int
	end         int // index of the group after them
}

// arrange brings the groups that are alike together, and describes them as runs.
func (c *Command) arrange(groups []*Group) {
	c.runs, c.runOf = c.runs[:0], c.runOf[:0]
	for _, g := range groups {
		r := -1
		if g.free {
			r = c.addRun(g, 0)
		}
		c.runOf = append(c.runOf, r)
	}
	for i, g := range groups { // the others come last
		if !g.free {
			c.runOf[i] = c.addRun(g, len(c.runs)-1)
		}
	}
	if len(c.runs) == 1 {
		c.runs[0].end = len(groups)
		return
	}
	end := 0
	for i := range c.runs {
		c.runs[i].end, end = end, end+c.runs[i].end
	}
	c.sorted = append(c.sorted[:0], groups...)
	for i, g := range c.sorted {
		r := &c.runs[c.runOf[i]]
		groups[r.end] = g
		r.end++
	}
}

// addRun counts a group in its run, one from the least-th on, and returns which that is.
func (c *Command) addRun(g *Group, least int) int {
	times := g.times()
	for i := len(c.runs) - 1; i >= max(least, 0); i-- {
		if r := &c.runs[i]; r.kind == g.kind && r.times == times {
			r.end++
			return i
		}
	}
	c.runs = append(c.runs, run{g.kind, times, 1})
	return len(c.runs) - 1
}
