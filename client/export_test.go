package client

// Waiting returns how many checks wait for the next call.
func Waiting(c *Client) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// Cancelled returns how many of them were cancelled by their callers.
func Cancelled(c *Client) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.waiting {
		if p.cancelled {
			n++
		}
	}
	return n
}
