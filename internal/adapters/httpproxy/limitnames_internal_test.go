package httpproxy

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// TestLimitNames_areThoseOfDecisions: a name that is missing would let the upstream's own header pass for ours.
func TestLimitNames_areThoseOfDecisions(t *testing.T) {
	limits := []domain.LimitStatus{{Name: "burst", Capacity: 1, RetryAfter: time.Second, NextToken: time.Second, Window: time.Second}}
	seen := map[string]bool{}
	for _, d := range []decision.Decision{
		{Limits: limits, LevelKnown: true, Outcome: decision.OutcomeDenied},
		{Limits: limits, LevelKnown: true, Outcome: decision.OutcomeDenied, Shadow: true},
		{Limits: limits, Store: decision.StoreFallback},
	} {
		n := 0
		d.HeaderFields(nil, func(name string, _ []byte) {
			n++
			seen[http.CanonicalHeaderKey(name)] = true
		})
		require.LessOrEqual(t, n, decision.MaxHeaderFields)
	}
	delete(seen, "Retry-After") // which an upstream may set itself
	for _, name := range limitNames {
		assert.True(t, seen[name], "%s is of no decision", name)
		delete(seen, name)
	}
	assert.Empty(t, seen)
}
