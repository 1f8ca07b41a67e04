package accesslog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/velocity-limiter/velocity/internal/domain"
)

const (
	maxLine = 256 << 10
	// batchSize is the number of entries that one goroutine passes to the other at once.
	batchSize = 512
	// batches is the number of batches that may wait.
	batches = 4
)

// log is one log. A goroutine of its own reads it.
type log struct {
	name   string
	in     *bufio.Reader
	cfg    *Config
	dec    *jsonDecoder
	window window
	stats  Stats
	quit   <-chan struct{}

	filled chan []*entry // closed after the last batch; then stats and err may be read
	used   chan []*entry
	free   []*entry
	batch  []*entry
	err    error

	// The batch that the receiver of filled has taken last, and its position in it.
	current []*entry
	at      int
}

func newLog(name string, in io.Reader, cfg *Config, quit <-chan struct{}) *log {
	l := &log{
		name: name, in: bufio.NewReaderSize(in, maxLine), cfg: cfg, dec: newJSONDecoder(), quit: quit,
		filled: make(chan []*entry, batches), used: make(chan []*entry, batches+2),
	}
	l.window.span = domain.Instant(cfg.Window.Microseconds())
	return l
}

// run reads the log to its end.
func (l *log) run() {
	defer close(l.filled)
	for {
		line, err := l.in.ReadSlice('\n')
		tooLong := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = l.in.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			l.err = fmt.Errorf("%s: after %d lines: %w", l.name, l.stats.Lines, err)
			return
		}
		if (len(line) > 0 || tooLong) && !l.take(line, tooLong) {
			return
		}
		if err != nil {
			break
		}
	}
	for e := l.window.rest(); e != nil; e = l.window.rest() {
		if !l.emit(e) {
			return
		}
	}
	l.stats.Late = l.window.late
	l.send()
}

// take parses one line. It reports false if reading was ended.
func (l *log) take(line []byte, tooLong bool) bool {
	l.stats.Lines++
	if tooLong {
		line = line[:min(len(line), 2*maxExampleText)]
	}
	e := l.entry()
	e.reset(l.name, l.stats.Lines, line)
	err := errTooLong
	if !tooLong {
		err = l.parse(e)
	}
	if err != nil {
		l.skip(e, err, &l.stats.Malformed, &l.stats.MalformedExamples)
		return true
	}
	if err := e.setTarget(l.cfg.NormalPath); err != nil {
		l.skip(e, err, &l.stats.Refused, &l.stats.RefusedExamples)
		return true
	}
	l.stats.Requests++
	if e.Request.Host == "" {
		e.Request.Host = l.cfg.Host
		if l.cfg.Host == "" {
			l.stats.NoHost++
		}
	}
	l.window.add(e)
	for e := l.window.next(); e != nil; e = l.window.next() {
		if !l.emit(e) {
			return false
		}
	}
	return true
}

// parse reads the line of an entry, in the format that its first character shows.
func (l *log) parse(e *entry) error {
	line := bytes.TrimSpace(e.line)
	switch {
	case len(line) == 0:
		return errEmpty
	case line[0] == '{':
		return e.parseJSON(l.dec, line)
	default:
		return e.parseCommon(line)
	}
}

// skip counts a line that is not replayed, and keeps it as an example.
func (l *log) skip(e *entry, err error, count *int, examples *[]Example) {
	*count++
	*examples = appendExample(*examples, e, err)
	l.free = append(l.free, e)
}

// entry returns an entry that is not in use.
func (l *log) entry() *entry {
	if len(l.free) == 0 {
		select {
		case done := <-l.used:
			l.free = append(l.free, done...)
			if l.batch == nil {
				l.batch = done[:0]
			}
		default:
		}
	}
	if last := len(l.free) - 1; last >= 0 {
		e := l.free[last]
		l.free = l.free[:last]
		return e
	}
	e := new(entry)
	e.lookup = e.value
	return e
}

func (l *log) emit(e *entry) bool {
	if l.batch == nil {
		l.batch = make([]*entry, 0, batchSize)
	}
	l.batch = append(l.batch, e)
	return len(l.batch) < batchSize || l.send()
}

func (l *log) send() bool {
	if len(l.batch) == 0 {
		return true
	}
	select {
	case l.filled <- l.batch:
		l.batch = nil
		return true
	case <-l.quit:
		return false
	}
}

// head returns the next entry without removing it; nil after the last one. Only the receiver of filled calls it. Once
// reading has been ended it returns os.ErrClosed.
func (l *log) head() (*entry, error) {
	if l.at < len(l.current) {
		return l.current[l.at], nil
	}
	if l.current != nil {
		select {
		case l.used <- l.current:
		default: // the garbage collector gets it
		}
	}
	l.current, l.at = nil, 0
	select {
	case l.current = <-l.filled:
	case <-l.quit:
		return nil, os.ErrClosed
	}
	if len(l.current) == 0 {
		return nil, l.err
	}
	return l.current[0], nil
}
