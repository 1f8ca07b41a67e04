package listener

import (
	"errors"
	"os"
	"sync/atomic"
	"time"
)

// deadline is the deadline of one direction of a connection, set lazily. fasthttp sets three deadlines per request, and each
// would move a timer of the runtime. So a deadline is only stored while an earlier one is in force. The earlier one then
// ends a read or write too soon, once in a while; the stored one is set, and the read or write continues.
//
// It is safe for concurrent use, as net.Conn requires.
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

// enforce sets the wanted deadline, and again if it changed in the meantime: otherwise two callers could leave the older
// one in force.
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

// endedEarly reports whether err ended a read or write before the wanted deadline, so that it must continue.
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
