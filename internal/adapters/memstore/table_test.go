package memstore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
)

// Two keys with the same tag are too rare to occur by chance, so the test sets the tag.
func TestTable_distinguishesNamesOfOneTag(t *testing.T) {
	names := []memstore.Name{
		{Key: "alice", Limit: mustLimit(t, "burst", "1/s", 1)},
		{Key: "malice", Limit: mustLimit(t, "urst", "1/s", 1)},
		{Key: "alic", Limit: mustLimit(t, "eburst", "1/s", 1)},
		{Key: "carol", Limit: mustLimit(t, "burst", "1/s", 1)},
		{Key: "alice", Limit: mustLimit(t, "daily", "1/s", 1)},
		{Key: "alice", Limit: mustQuota(t, "daily", 1, "day")},
	}
	for held := range names {
		found := memstore.FindWithOneTag(names[held], names)
		for i := range names {
			assert.Equal(t, i == held, found[i], "%v is asked for, %v is held", names[i], names[held])
		}
	}
}
