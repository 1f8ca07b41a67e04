//go:build !race

package app_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// The race detector empties pools at random, so there is nothing to count with it.
func TestDecideMany_allocatesTheKeyAlone(t *testing.T) {
	for name, verdict := range map[string]domain.Verdict{"allowed": domain.Allowed, "denied by the shortcut": domain.Denied} {
		t.Run(name, func(t *testing.T) {
			decide := hotPath(t, &quickStore{verdict: verdict})
			decide() // the slots grow, and the shortcut learns
			require.LessOrEqual(t, testing.AllocsPerRun(1000, decide), 1.0)
		})
	}
}
