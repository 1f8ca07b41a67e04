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

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// DefaultWindow is what servers need that write their lines through a buffer.
const DefaultWindow = 10 * time.Second

// Config says how logs are read.
type Config struct {
	// NormalPath brings a path into its normal form, as the doors do, or refuses it.
	NormalPath func(string) (string, error)
	// Host is the host of requests whose line names none.
	Host string
	// Window is within what time the lines of one log may be out of order.
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

// Logs are the requests of one or more logs, in the order of their times. For one goroutine, except Progress and Close.
type Logs struct {
	cfg   Config
	logs  []*log
	open  []*log // a heap would pay with hundreds of logs; there are a few
	last  *log   // whose entry was returned last
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

// Stats is what became of the lines. It is complete once Next has returned io.EOF, and must not be asked before.
func (l *Logs) Stats() Stats {
	var total Stats
	for _, log := range l.logs {
		total.add(&log.stats)
	}
	return total
}

// Progress is how many bytes of the files have been read, and how many there are; 0 if that is not known, as it is
// not for a pipe. Safe for concurrent use.
func (l *Logs) Progress() (read, total int64) { return l.read.Load(), l.total }

// Close ends the reading and closes the files; a Next that waits returns os.ErrClosed. A goroutine that reads standard
// input ends when that has been read. Safe for concurrent use.
func (l *Logs) Close() error {
	var errs []error
	l.once.Do(func() {
		close(l.quit)
		for _, f := range l.files { // which ends whatever waits for them
			errs = append(errs, f.Close())
		}
		l.ended.Wait()
		for _, r := range l.ahead { // these must not be closed while they are read
			errs = append(errs, r.Close())
		}
	})
	return errors.Join(errs...)
}

func instantSpan(d time.Duration) domain.Instant { return domain.Instant(d.Microseconds()) }
