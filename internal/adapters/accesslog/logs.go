// Package accesslog reads the access logs of web servers as requests that can be decided again.
//
// It reads the Common and the Combined Log Format (also with Apache's virtual host in front), and the JSON lines of nginx
// and Caddy, plain or compressed with gzip. It detects the format of each line.
//
// A line that is not a request is counted, and reading goes on. Several logs are merged by time. Lines that are a little
// out of order are sorted. The memory does not grow with the size of the logs. The package takes the client addresses of
// the log as they are.
package accesslog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// DefaultWindow is long enough for servers that buffer their lines.
const DefaultWindow = 10 * time.Second

// Config of the reading.
type Config struct {
	// NormalPath returns the normal form of a path, as the service does, or an error if the service refuses the path.
	NormalPath func(string) (string, error)
	// Host is the host of requests whose line has none.
	Host string
	// Window is how far the lines of one log may be out of order.
	Window time.Duration
}

// Validate reports every violation at once, with the value found.
func (c *Config) Validate() error {
	var errs []error
	if c.NormalPath == nil {
		errs = append(errs, errors.New("accesslog: NormalPath is missing"))
	}
	if c.Window < 0 || c.Window > time.Hour {
		errs = append(errs, fmt.Errorf("window: %v: must be from 0 to 1h", c.Window))
	}
	return errors.Join(errs...)
}

// Logs reads one or more logs as one sequence of requests, ordered by time. It is not safe for concurrent use, except for
// Progress and Close.
type Logs struct {
	cfg   Config
	logs  []*log
	open  []*log // few: a heap would pay off with hundreds
	last  *log   // the log of the entry that was returned last
	dec   *jsonDecoder
	quit  chan struct{}
	ended sync.WaitGroup
	once  sync.Once
	files []*os.File
	ahead []io.Closer

	read  atomic.Int64
	total int64
}

var _ ports.RequestLog = (*Logs)(nil)

// Next implements [ports.RequestLog].
func (l *Logs) Next() (*ports.LoggedRequest, error) {
	if l.last != nil {
		l.last.at++
		l.last = nil
	}
	var first *entry
	for i := 0; i < len(l.open); {
		log := l.open[i]
		e, err := log.head()
		if err != nil {
			l.last = nil
			return nil, err
		}
		if e == nil {
			l.open = slices.Delete(l.open, i, i+1)
			continue
		}
		if first == nil || e.At < first.At {
			first, l.last = e, log
		}
		i++
	}
	if first == nil {
		return nil, io.EOF
	}
	first.dec = l.dec
	return &first.LoggedRequest, nil
}

// Stats counts what became of the lines. It must be called only after Next has returned io.EOF.
func (l *Logs) Stats() Stats {
	var total Stats
	for _, log := range l.logs {
		total.add(&log.stats)
	}
	return total
}

// Progress returns the number of bytes that have been read, and the total; 0 if the total is not known, as for a pipe.
func (l *Logs) Progress() (read, total int64) { return l.read.Load(), l.total }

// Close ends the reading and closes the files. A Next that waits returns os.ErrClosed. A goroutine that reads standard
// input ends only when its read returns.
func (l *Logs) Close() error {
	var errs []error
	l.once.Do(func() {
		close(l.quit)
		for _, f := range l.files { // which ends the reads that wait for them
			errs = append(errs, f.Close())
		}
		l.ended.Wait()
		for _, r := range l.ahead { // these must not be closed while they are read
			errs = append(errs, r.Close())
		}
	})
	return errors.Join(errs...)
}
