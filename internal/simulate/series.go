package simulate

import (
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// maxBins is the number of bins that a chart can show.
const maxBins = 600

// widths are the widths of a bin. Each is a multiple of the one before; after the last one they double.
var widths = []time.Duration{
	time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour,
	6 * time.Hour, 24 * time.Hour,
}

// Series counts requests over time, in bins of equal width. The width grows with the time that the series spans.
type Series struct {
	// Start of the first bin, a whole multiple of the width since the epoch.
	Start time.Time `json:"start,omitzero"`
	// WidthSeconds of a bin.
	WidthSeconds int64 `json:"width_seconds"`
	Bins         []Bin `json:"bins"`

	width, start domain.Instant
	level        int
}

// Bin counts the requests of one period.
type Bin struct {
	Allowed int `json:"allowed"`
	// Denied includes blocked requests.
	Denied int `json:"denied"`
}

// add counts one request. at must not go back.
func (s *Series) add(at domain.Instant, passed bool) {
	if s.width == 0 {
		s.setWidth(widths[0])
		s.start = floor(at, s.width)
	}
	for (at-s.start)/s.width >= maxBins {
		s.coarsen()
	}
	bin := s.bin(at)
	if passed {
		bin.Allowed++
	} else {
		bin.Denied++
	}
}

// bin returns the bin of a time.
func (s *Series) bin(at domain.Instant) *Bin {
	i := int((at - s.start) / s.width)
	for i >= len(s.Bins) {
		s.Bins = append(s.Bins, Bin{})
	}
	return &s.Bins[i]
}

func (s *Series) setWidth(d time.Duration) { s.width = domain.Instant(d.Microseconds()) }

// coarsen merges the bins into wider ones.
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
		wider := s.bin(oldStart + domain.Instant(i)*oldWidth)
		wider.Allowed += bin.Allowed
		wider.Denied += bin.Denied
	}
}

// floor rounds at down to a whole multiple of width. at may be negative.
func floor(at, width domain.Instant) domain.Instant { return at - (at%width+width)%width }

// finish sets the fields that the JSON shows.
func (s *Series) finish() {
	if s.width > 0 {
		s.Start, s.WidthSeconds = s.start.Time(), int64(s.width)/1e6
	}
}
