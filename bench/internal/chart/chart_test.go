package chart_test

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/chart"
)

var update = flag.Bool("update", false, "write the golden files anew")

func example() *chart.Chart {
	return &chart.Chart{
		Title: "Decisions per second", Subtitle: "One Redis; more is better",
		Groups: []chart.Group{
			{Name: "64 goroutines", Bars: []chart.Bar{
				{Label: "Velocity", Value: 140000, Low: 120000, Hi: 150000, Text: "140,000", Own: true},
				{Label: "a peer <&> co", Value: 49000, Low: 49000, Hi: 49000, Text: "49,000"},
				{Label: "PING", Value: 90000, Low: 90000, Hi: 90000, Text: "90,000", Bound: true},
			}},
			{Name: "512 goroutines", Bars: []chart.Bar{{Label: "nothing", Text: "0"}}},
		},
	}
}

func TestSVG_golden(t *testing.T) {
	for _, theme := range []chart.Theme{chart.Light, chart.Dark} {
		got := example().SVG(theme)
		golden := filepath.Join("testdata", "example-"+theme.Name+".svg")
		if *update {
			require.NoError(t, os.WriteFile(golden, []byte(got), 0o600))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		assert.Equal(t, string(want), got, theme.Name)
	}
}

func TestSVG_isWellFormed(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(example().SVG(chart.Light)))
	var texts []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if data, is := token.(xml.CharData); is && strings.TrimSpace(string(data)) != "" {
			texts = append(texts, string(data))
		}
	}
	assert.Contains(t, texts, "a peer <&> co")
}

func TestSVG_scalesTheLongestToTheSameWidth(t *testing.T) {
	// The longest, its whisker included, takes the 348 pixels that labels and values leave.
	c := chart.Chart{Groups: []chart.Group{{Bars: []chart.Bar{{Value: 2, Low: 2, Hi: 2}, {Value: 1, Low: 0.5, Hi: 4}}}}}
	svg := c.SVG(chart.Light)
	assert.Contains(t, svg, `width="174.0"`)
	assert.Contains(t, svg, `width="87.0"`)
}

func TestSVG_ofNothing(t *testing.T) {
	assert.NotContains(t, (&chart.Chart{}).SVG(chart.Light), "NaN")
}
