package page

import (
	"fmt"
	"math"
	"time"

	"github.com/velocity-limiter/velocity/internal/simulate"
)

// The chart's measures, in the units of its viewBox.
const (
	chartWidth  = 960
	chartHeight = 240
	plotLeft    = 56
	plotRight   = chartWidth - 8
	plotTop     = 10
	plotBottom  = chartHeight - 28
)

// chart is a picture of a series: for each bin the allowed, and the denied on top of them.
type chart struct {
	Width, Height int
	Left, Right   int
	Bottom        int
	// Unit is how long a bin is.
	Unit  string
	Bars  []bar
	Rows  []row
	Ticks []tick
}

// bar is one bin.
type bar struct {
	X, Width                float64
	AllowedTop, AllowedTall float64
	DeniedTop, DeniedTall   float64
	Title                   string
}

// row is a line across, and what it stands for.
type row struct {
	Y     float64
	Label string
}

// tick is a time below.
type tick struct {
	X     float64
	Label string
}

// highest is the most that a bin holds.
func highest(s *simulate.Series) int {
	most := 0
	for _, bin := range s.Bins {
		most = max(most, bin.Allowed+bin.Denied)
	}
	return most
}

// newChart draws a series to the scale at which most reaches the top; nil if there is nothing to draw.
func newChart(s *simulate.Series, most int) *chart {
	if len(s.Bins) == 0 || most == 0 {
		return nil
	}
	width := time.Duration(s.WidthSeconds) * time.Second
	c := &chart{Width: chartWidth, Height: chartHeight, Left: plotLeft, Right: plotRight, Bottom: plotBottom, Unit: shortest(width)}
	top := niceAbove(most)
	for i := 0; i <= 4; i++ {
		n := top * i / 4
		c.Rows = append(c.Rows, row{Y: height(n, top), Label: count(n)})
	}
	step := float64(plotRight-plotLeft) / float64(len(s.Bins))
	for i, bin := range s.Bins {
		allowed, all := height(bin.Allowed, top), height(bin.Allowed+bin.Denied, top)
		c.Bars = append(c.Bars, bar{
			X: hundredths(plotLeft + step*float64(i)), Width: hundredths(max(step-0.5, step*0.8)),
			AllowedTop: allowed, AllowedTall: hundredths(plotBottom - allowed), DeniedTop: all, DeniedTall: hundredths(allowed - all),
			Title: fmt.Sprintf("%s UTC: %s allowed, %s denied", when(s.Start.Add(time.Duration(i)*width)), count(bin.Allowed), count(bin.Denied)),
		})
	}
	c.Ticks = ticks(s, width, step)
	return c
}

// height is where so many reach.
func height(n, top int) float64 {
	return hundredths(plotBottom - float64(plotBottom-plotTop)*float64(n)/float64(top))
}

// hundredths is as fine as anybody can see.
func hundredths(x float64) float64 { return math.Round(x*100) / 100 }

// niceAbove is a number that four rows divide well.
func niceAbove(n int) int {
	for scale := 1; ; scale *= 10 {
		for _, digit := range []int{4, 8, 12, 20, 40} {
			if digit*scale >= n {
				return digit * scale
			}
		}
	}
}

const mostTicks = 7

// ticks names about every seventh part of the time.
func ticks(s *simulate.Series, width time.Duration, step float64) []tick {
	each := (len(s.Bins) + mostTicks - 1) / mostTicks
	layout := "15:04:05"
	switch span := width * time.Duration(len(s.Bins)); {
	case span > 6*24*time.Hour:
		layout = "2 Jan 2006"
	case span > 12*time.Hour:
		layout = "2 Jan 15:04"
	case width >= time.Minute:
		layout = "15:04"
	}
	var list []tick
	for i := 0; i < len(s.Bins); i += each {
		list = append(list, tick{X: hundredths(plotLeft + step*float64(i)), Label: s.Start.Add(time.Duration(i) * width).UTC().Format(layout)})
	}
	return list
}

// shortest names a duration by its largest whole unit.
func shortest(d time.Duration) string {
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := d / unit.size; n > 0 && d%unit.size == 0 {
			if n == 1 {
				return unit.name
			}
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return d.String()
}
