package memstore_test

import (
	"testing"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/ports/porttest"
)

func TestContract(t *testing.T) {
	porttest.TestBucketStore(t, porttest.Harness{New: func(t *testing.T) porttest.Fixture {
		store, clock := newStore(t, memstore.DefaultConfig().MaxBuckets)
		return porttest.Fixture{Store: store, Advance: clock.Advance, Holds: store.Holds}
	}})
}
