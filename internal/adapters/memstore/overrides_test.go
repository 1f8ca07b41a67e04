package memstore_test

import (
	"testing"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/ports/porttest"
)

func TestOverrideStore(t *testing.T) {
	porttest.TestOverrideStore(t, porttest.OverrideHarness{
		New: func(_ *testing.T, bounds ports.OverrideBounds) (a, b ports.OverrideStore) {
			s := memstore.NewOverrides(bounds)
			return s, s
		},
	})
}
