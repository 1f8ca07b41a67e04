package accesslog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	maxLine = 256 << 10
	// batchSize is how many entries pass from one goroutine to the other at once.
	batchSize = 512
	// batches is how many may wait.
	batches = 4
)

// log is one log, which a goroutine of its own reads.
type log struct {
	name   string
	in     *bufio.Reader
	cfg    *Config
	dec    *jsonDecoder
	window window
	stats  Stats
	quit   <-chan struct{}

	filled chan []*entry // closed after the last one; then stats and err may be read
	used   chan []*entry
	free   []*entry
	batch  []*entry
	err    error

	// What the reader of filled holds.
	current []*entry
	at      int
}

func newLog(name string, in io.Reader, cfg *Config, quit <-chan struct{}) *log {
	l := &log{
		name: name, in: bufio.NewReaderSize(in, maxLine), cfg: cfg, dec: newJSONDecoder(), quit: quit,
		filled: make(chan []*entry, batches), used: make(chan []*entry, batches+2),
	}
	l.window.span = instantSpan(cfg.Window)
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

// take reads one line. It reports false if nobody wants more.
func (l *log) take(line []byte, tooLong bool) bool {
	l.stats.Lines++
	e := l.entry()
	if tooLong {
		e.reset(l.name, l.stats.Lines, line[:min(len(line), 2*maxExampleText)])
	} else {
		e.reset(l.name, l.stats.Lines, line)
	}
	err := errTooLong
	if !tooLong {
		err = e.parse(l.dec)
	}
	if err != nil {
		l.stats.malformed(e, err)
		l.free = append(l.free, e)
		return true
	}
	if err := e.setTarget(l.cfg.NormalPath); err != nil {
		l.stats.refused(e, err)
		l.free = append(l.free, e)
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

// entry is one that nobody uses.
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
	return newEntry()
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

// head is the entry that comes next, for the goroutine that reads filled; nil after the last one. It waits for no entry
// once the reading has been ended.
func (l *log) head() (*entry, error) {
	if l.at < len(l.current) {
		return l.current[l.at], nil
	}
	if l.current != nil {
		select {
		case l.used <- l.current:
		default: // garbage, for once
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
