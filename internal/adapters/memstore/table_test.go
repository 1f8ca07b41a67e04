package memstore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
)

// Two keys of one tag are too rare to come up by chance, so the table is made to hold them.
func TestTable_tellsNamesOfOneTagApart(t *testing.T) {
	names := []memstore.Name{
		{Key: "alice", Limit: "burst"},
		{Key: "malice", Limit: "urst"},
		{Key: "alic", Limit: "eburst"},
		{Key: "carol", Limit: "burst"},
		{Key: "alice", Limit: "daily"},
	}
	for held := range names {
		found := memstore.FindWithOneTag(names[held], names)
		for i := range names {
			assert.Equal(t, i == held, found[i], "%v is asked for, %v is held", names[i], names[held])
		}
	}
}
