package simulate

import (
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// maxBins is as many as a chart can show.
const maxBins = 600

// widths of a bin, each a multiple of the one before; beyond the last they double.
var widths = []time.Duration{
	time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour,
	6 * time.Hour, 24 * time.Hour,
}

// Series counts requests over time, in bins that become wider as the time grows longer.
type Series struct {
	// Start of the first bin: a whole multiple of the width, in UTC.
	Start time.Time `json:"start,omitzero"`
	// WidthSeconds of a bin.
	WidthSeconds int64 `json:"width_seconds"`
	Bins         []Bin `json:"bins"`

	width, start domain.Instant
	level        int
}

// Bin is a stretch of time.
type Bin struct {
	Allowed int `json:"allowed"`
	// Denied are those that would not have passed, also because they are blocked.
	Denied int `json:"denied"`
}

// add counts one request. Time never goes back.
func (s *Series) add(at domain.Instant, passed bool) {
	if s.width == 0 {
		s.setWidth(widths[0])
		s.start = floor(at, s.width)
	}
	for (at-s.start)/s.width >= maxBins {
		s.coarsen()
	}
	for i := int((at - s.start) / s.width); i >= len(s.Bins); {
		s.Bins = append(s.Bins, Bin{})
	}
	bin := &s.Bins[(at-s.start)/s.width]
	if passed {
		bin.Allowed++
	} else {
		bin.Denied++
	}
}

func (s *Series) setWidth(d time.Duration) { s.width = domain.Instant(d.Microseconds()) }

// coarsen puts the bins into wider ones.
func (s *Series) coarsen() {
	old, oldStart, oldWidth := s.Bins, s.start, s.width
	if s.level++; s.level < len(widths) {
		s.setWidth(widths[s.level])
	} else {
		s.width *= 2
	}
	s.start = floor(s.start, s.width)
	s.Bins = nil
	for i, bin := range old {
		j := int((oldStart + domain.Instant(i)*oldWidth - s.start) / s.width)
		for j >= len(s.Bins) {
			s.Bins = append(s.Bins, Bin{})
		}
		s.Bins[j].Allowed += bin.Allowed
		s.Bins[j].Denied += bin.Denied
	}
}

// floor is the last whole multiple of width up to at, which may lie before the epoch.
func floor(at, width domain.Instant) domain.Instant { return at - (at%width+width)%width }

// finish fills in what is shown.
func (s *Series) finish() {
	if s.width > 0 {
		s.Start, s.WidthSeconds = s.start.Time(), int64(s.width)/1e6
	}
}
