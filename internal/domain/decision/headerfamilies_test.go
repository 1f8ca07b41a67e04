package decision_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

func TestHeaderFamilies_leaveOutWhatWasNotChosen(t *testing.T) {
	always := []string{"Retry-After", "X-RateLimit-Store"}
	vendor := []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Retry-After"}
	standard := []string{"RateLimit", "RateLimit-Policy"}
	for _, c := range []struct{ chosen, want []string }{
		{nil, slices.Concat(always, vendor, standard)},
		{[]string{"x-ratelimit", "ratelimit"}, slices.Concat(always, vendor, standard)},
		{[]string{"ratelimit"}, slices.Concat(always, standard)},
		{[]string{"x-ratelimit"}, slices.Concat(always, vendor)},
	} {
		families, err := decision.ParseHeaderFamilies(c.chosen)
		require.NoError(t, err)
		d := decision.Decision{LevelKnown: true, Store: decision.StoreFallback, Limits: []domain.LimitStatus{{Name: "burst", Capacity: 10, RetryAfter: time.Second}}}
		shadow := d
		shadow.Shadow = true
		var got []string
		families.Fields(&d, nil, func(name string, _ []byte) { got = append(got, name) })
		assert.ElementsMatch(t, c.want, got, c.chosen)
		families.Fields(&shadow, nil, func(name string, _ []byte) {
			if name == "X-RateLimit-Shadow" {
				got = append(got, name)
			}
		})
		assert.ElementsMatch(t, families.Names(), got, "Names has what can be there")
	}
	for _, c := range []struct {
		chosen []string
		want   string
	}{
		{[]string{"ratelimit", "retry-after"}, `"retry-after" is not x-ratelimit or ratelimit`},
		{[]string{""}, `"" is not x-ratelimit or ratelimit`},
		{[]string{"ratelimit", "ratelimit"}, `"ratelimit" is there twice`},
	} {
		_, err := decision.ParseHeaderFamilies(c.chosen)
		assert.EqualError(t, err, c.want)
	}
}
