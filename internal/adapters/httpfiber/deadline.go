package httpfiber

import (
	"errors"
	"os"
	"sync/atomic"
	"time"
)

// deadline is one direction's deadline of a connection, handed on late. fasthttp sets three per request, and each
// would move a timer of the runtime. So a deadline is only noted while the connection has an earlier one: that ends
// a wait too early, once in a while, and then the noted one is handed on and the wait goes on.
//
// Safe for concurrent use, as net.Conn promises.
type deadline struct {
	set   func(time.Time) error // the connection's own
	start time.Time             // any instant before the first deadline
	// Both are nanoseconds since start, by the monotonic clock; 0: none.
	wanted, inForce atomic.Int64
}

// want sets the deadline; the zero Time is none.
func (d *deadline) want(t time.Time) error {
	var at int64
	if !t.IsZero() {
		at = max(t.Sub(d.start).Nanoseconds(), 1)
	}
	d.wanted.Store(at)
	if earlier := d.inForce.Load(); earlier != 0 && earlier <= at {
		return nil
	}
	return d.enforce()
}

// enforce hands the wanted deadline on, and again if it has changed meanwhile: else two callers could leave the
// older one in force.
func (d *deadline) enforce() error {
	for {
		at := d.wanted.Load()
		var t time.Time
		if at != 0 {
			t = d.start.Add(time.Duration(at))
		}
		d.inForce.Store(at)
		if err := d.set(t); err != nil || d.wanted.Load() == at {
			return err
		}
	}
}

// endedEarly reports whether err ended a wait before the wanted deadline, and the wait should go on.
func (d *deadline) endedEarly(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	at := d.wanted.Load()
	if at != 0 && time.Since(d.start).Nanoseconds() >= at {
		return false
	}
	return d.enforce() == nil
}
