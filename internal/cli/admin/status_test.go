package admin

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestHistogram_quantile(t *testing.T) {
	h := &histogram{Bounds: []float64{.001, .01}, Counts: []uint64{90, 9, 1}}
	assert.Equal(t, "<= 1ms", h.quantile(.5))
	assert.Equal(t, "<= 10ms", h.quantile(.99))
	assert.Equal(t, "> 10ms", h.quantile(.999))
	assert.Equal(t, "-", (&histogram{Bounds: []float64{1}, Counts: []uint64{0, 0}}).quantile(.5))
	assert.Equal(t, "-", (*histogram)(nil).quantile(.5))
	assert.Equal(t, "-", (&histogram{Counts: []uint64{1}}).quantile(.5), "an answer without bounds")
}
