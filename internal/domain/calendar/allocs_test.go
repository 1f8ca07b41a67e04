//go:build !race

package calendar_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestAt_allocatesNothingWithinTheLastPeriod(t *testing.T) {
	for _, period := range []string{"minute", "day", "month", "36h"} {
		s := schedule(t, period, "", "")
		start, end, _ := s.At(instant(t, "2026-01-15T12:00:30Z"))
		var seen domain.Instant
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			for _, now := range []domain.Instant{start, end - 1} {
				seen, _, _ = s.At(now)
			}
		}), period)
		assert.Equal(t, start, seen)
	}
}
