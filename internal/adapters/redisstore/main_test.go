package redisstore_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
)

// No goroutine outlives its store for longer than a budget or a dial: what the tests start, they close.
func TestMain(m *testing.M) {
	redisstore.SetLogger(func(string) {}) // failing connections are what many tests are about
	goleak.VerifyTestMain(m)
}
