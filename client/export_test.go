package client

// Waiting is how many checks wait for the next call.
func Waiting(c *Client) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// Gone is how many of them have nobody left who wants the answer.
func Gone(c *Client) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.waiting {
		if a.gone {
			n++
		}
	}
	return n
}
