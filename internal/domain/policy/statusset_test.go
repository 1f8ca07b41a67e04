package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func TestParseRefundOn(t *testing.T) {
	set, err := policy.ParseRefundOn("2xx", "503", "404")
	require.NoError(t, err)
	for status, want := range map[int]bool{200: true, 299: true, 404: true, 503: true, 199: false, 300: false, 403: false, 504: false, 0: false, -200: false, 1200: false} {
		assert.Equal(t, want, set.Has(status), "%d", status)
	}
	assert.Equal(t, "2xx, 404, 503", set.String())
	assert.False(t, set.Empty())

	none, err := policy.ParseRefundOn()
	require.NoError(t, err)
	assert.True(t, none.Empty())
	assert.False(t, none.Has(200))
	assert.Equal(t, policy.StatusSet{}, none)
}

func TestParseRefundOn_refusesWhatWouldMakeGuessingFree(t *testing.T) {
	for _, in := range []string{"401", "403", "429", "4xx", "", "0xx", "6xx", "2XX", "xx", "20", "2000", "099", "600", "+20", " 200", "abc"} {
		_, err := policy.ParseRefundOn("200", in)
		assert.True(t, isPolicyError(err, "refund_on"), "%q: %v", in, err)
	}
}
