// Package chart draws bar charts as SVG, in a light and a dark theme. They have no scripts and no fonts of their own, so a
// page can embed them as images.
package chart

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// Chart is a picture of one quantity.
type Chart struct {
	Title, Subtitle string
	Groups          []Group
}

// Group is a set of bars under one load.
type Group struct {
	Name string
	Bars []Bar
}

// Bar is one subject's value, with its minimum and maximum over the rounds.
type Bar struct {
	Label          string
	Value, Low, Hi float64
	// Text stands at the end of the bar.
	Text string
	// Own is set for the project's own bars. Bound is set for subjects that decide nothing: their bars are pale.
	Own, Bound bool
}

// Theme is a set of colours.
type Theme struct {
	// Name is the suffix of the file.
	Name                                    string
	text, muted, own, peer, whisker, ground string
}

// The themes. The ground is drawn, so that the picture reads on any page.
var (
	Light = Theme{"light", "#1f2328", "#59636e", "#0969da", "#afb8c1", "#1f2328", "#ffffff"}
	Dark  = Theme{"dark", "#f0f6fc", "#9198a1", "#4493f8", "#6e7681", "#f0f6fc", "#0d1117"}
)

// The picture's measures, in pixels.
const (
	width       = 760
	margin      = 20
	labelWidth  = 262
	valueWidth  = 110
	barHeight   = 18
	barStep     = 26
	groupHeight = 30
	headHeight  = 62
	fontFamily  = "-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
)

// SVG draws the chart. Every group has the same scale, which starts at 0.
func (c *Chart) SVG(t Theme) string {
	height := headHeight + margin
	longest := 0.0
	for _, g := range c.Groups {
		height += groupHeight + len(g.Bars)*barStep
		for _, b := range g.Bars {
			longest = math.Max(longest, math.Max(b.Value, b.Hi))
		}
	}
	d := drawing{theme: t, scale: float64(width-2*margin-labelWidth-valueWidth) / math.Max(longest, math.SmallestNonzeroFloat32)}
	d.line(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" font-family="%s">`,
		width, height, width, height, fontFamily)
	d.line(`<title>%s</title>`, html.EscapeString(c.Title))
	d.line(`<rect width="%d" height="%d" rx="6" fill="%s"/>`, width, height, t.ground)
	d.text(margin, 30, 16, "600", t.text, "start", c.Title)
	d.text(margin, 50, 12, "400", t.muted, "start", c.Subtitle)
	y := headHeight
	for _, g := range c.Groups {
		d.text(margin, y+20, 13, "600", t.text, "start", g.Name)
		y += groupHeight
		for _, b := range g.Bars {
			d.bar(b, y)
			y += barStep
		}
	}
	d.line(`</svg>`)
	return d.String()
}

type drawing struct {
	strings.Builder
	theme Theme
	scale float64 // pixels per unit
}

func (d *drawing) line(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) text(x, y, size int, weight, colour, anchor, s string) {
	d.line(`<text x="%d" y="%d" font-size="%d" font-weight="%s" fill="%s" text-anchor="%s">%s</text>`,
		x, y, size, weight, colour, anchor, html.EscapeString(s))
}

// bar draws the label, the bar, a line (whisker) from the minimum to the maximum of the rounds, and the value.
func (d *drawing) bar(b Bar, y int) {
	const left = margin + labelWidth
	colour, weight := d.theme.peer, "400"
	if b.Own {
		colour, weight = d.theme.own, "600"
	}
	d.text(left-10, y+14, 12, weight, d.theme.text, "end", b.Label)
	length := math.Max(b.Value*d.scale, 1)
	opacity := "1"
	if b.Bound {
		opacity = "0.25"
	}
	d.line(`<rect x="%d" y="%d" width="%s" height="%d" rx="2" fill="%s" fill-opacity="%s" stroke="%s"/>`,
		left, y, pixels(length), barHeight, colour, opacity, colour)
	end := length
	if b.Hi > b.Low {
		from, to, middle := left+b.Low*d.scale, left+b.Hi*d.scale, y+barHeight/2
		d.line(`<path d="M%s %dH%sM%s %dv8M%s %dv8" stroke="%s" stroke-width="1" opacity="0.6"/>`,
			pixels(from), middle, pixels(to), pixels(from), middle-4, pixels(to), middle-4, d.theme.whisker)
		end = math.Max(end, b.Hi*d.scale)
	}
	d.text(left+int(math.Ceil(end))+8, y+14, 12, weight, d.theme.text, "start", b.Text)
}

func pixels(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }
