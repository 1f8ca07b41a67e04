// Package replay holds a recorded HTTP answer of one service, so that another can send it.
package replay

import (
	"strings"

	"github.com/velocity-limiter/velocity/bench/internal/httpload"
)

// Answer is what to send for a path.
type Answer struct {
	Path   string
	Status int
	Header []Field
	Body   string
}

// Field is one line of the header.
type Field struct{ Name, Value string }

// Record copies an answer for a path, without the header fields that every server sets itself.
func Record(path string, a httpload.Answer) Answer {
	r := Answer{Path: path, Status: a.Status, Body: string(a.Body)}
	lines := strings.Split(string(a.Head), "\r\n")
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		switch strings.ToLower(name) {
		case "date", "content-length", "connection", "server":
		default:
			r.Header = append(r.Header, Field{name, value})
		}
	}
	return r
}
