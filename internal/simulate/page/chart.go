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

// chart draws a series: for each bin the allowed requests, and the denied ones on top of them.
type chart struct {
	Width, Height int
	Left, Right   int
	Bottom        int
	// Unit is the width of a bin.
	Unit  string
	Bars  []bar
	Rows  []mark
	Ticks []mark
}

// bar is one bin.
type bar struct {
	X, Width                float64
	AllowedTop, AllowedTall float64
	DeniedTop, DeniedTall   float64
	Title                   string
}

// mark is a labelled position on an axis: a number of requests, or a time.
type mark struct {
	At    float64
	Label string
}

// highest returns the largest number of requests in a bin.
func highest(s *simulate.Series) int {
	most := 0
	for _, bin := range s.Bins {
		most = max(most, bin.Allowed+bin.Denied)
	}
	return most
}

// newChart draws a series. most is the number of requests that reaches the top. It returns nil for an empty series.
func newChart(s *simulate.Series, most int) *chart {
	if len(s.Bins) == 0 || most == 0 {
		return nil
	}
	width := time.Duration(s.WidthSeconds) * time.Second
	c := &chart{Width: chartWidth, Height: chartHeight, Left: plotLeft, Right: plotRight, Bottom: plotBottom, Unit: shortest(width)}
	top := niceAbove(most)
	for i := 0; i <= 4; i++ {
		n := top * i / 4
		c.Rows = append(c.Rows, mark{At: height(n, top), Label: count(n)})
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

// height returns the vertical position of n requests.
func height(n, top int) float64 {
	return hundredths(plotBottom - float64(plotBottom-plotTop)*float64(n)/float64(top))
}

// hundredths rounds to hundredths, which keeps the page small.
func hundredths(x float64) float64 { return math.Round(x*100) / 100 }

// niceAbove returns a round number of at least n that four rows divide evenly.
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

// ticks labels the time at about seven positions.
func ticks(s *simulate.Series, width time.Duration, step float64) []mark {
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
	var list []mark
	for i := 0; i < len(s.Bins); i += each {
		list = append(list, mark{At: hundredths(plotLeft + step*float64(i)), Label: s.Start.Add(time.Duration(i) * width).UTC().Format(layout)})
	}
	return list
}

// shortest writes a duration in its largest whole unit.
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
