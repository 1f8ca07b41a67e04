package conn

import "fmt"

const (
	// maxElements and maxString bound what a reply may announce. The largest replies are those of the script, with some
	// thousand elements, and a Cluster's table of slots.
	maxElements = 1 << 20
	maxString   = 64 << 20
)

// lengths reads along with the replies of a server (RESP2), and refuses a length that no reply has. go-redis allocates as much
// memory as a reply announces, at once: a damaged length would panic, or end the process for lack of memory.
type lengths struct {
	kind byte  // the first byte of the line that is read; 0 before it
	n    int64 // the length in that line, as far as it was read
	skip int64 // the rest of a string, with the end of its line
}

// read reads the next bytes of a connection.
func (l *lengths) read(p []byte) error {
	for len(p) > 0 {
		if l.skip > 0 {
			k := min(l.skip, int64(len(p)))
			l.skip, p = l.skip-k, p[k:]
			continue
		}
		c := p[0]
		p = p[1:]
		switch {
		case l.kind == 0:
			l.kind, l.n = c, 0
		case c == '\n':
			if l.kind == '$' {
				l.skip = l.n + 2
			}
			l.kind = 0
		case l.kind != '$' && l.kind != '*':
		case c == '-': // no string or array, but its absence
			l.kind = c
		case c >= '0' && c <= '9':
			if l.n = 10*l.n + int64(c-'0'); l.n > maxString || l.kind == '*' && l.n > maxElements {
				return fmt.Errorf("the server's reply announces an impossible length: %c%d", l.kind, l.n)
			}
		}
	}
	return nil
}
