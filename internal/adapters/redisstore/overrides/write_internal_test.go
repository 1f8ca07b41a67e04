package overrides

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// A change that arrives late does not replace a newer one, and one that has changed since is not removed.
func TestWrite_keepsTheNewestEntry(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: redistest.Start(t).Addr, Protocol: 2, PipelinePoolSize: -1})
	t.Cleanup(func() { _ = client.Close() })
	s := &Server{Name: "shard-0", Client: client}
	write := func(op string, e override.Entry) string {
		reply, err := s.write(t.Context(), op, ports.DefaultOverrideBounds, e)
		require.NoError(t, err)
		return reply[0]
	}
	old := override.Entry{Key: "search:ip=a", Version: 1, Value: override.Value{Effect: "exempt", Client: "a"}}
	newer := override.Entry{Key: old.Key, Version: 2, Value: override.Value{Effect: "block", Client: "a"}}
	require.Equal(t, storedReply, write(opPut, newer))
	assert.Equal(t, newer.Text(), write(opPut, old))
	assert.Equal(t, newer.Text(), write(opAdd, old))
	assert.Equal(t, newer.Text(), write(opDrop, old))
	end := newer.End()
	assert.Equal(t, storedReply, write(opPut, end))
	assert.Equal(t, end.Text(), write(opPut, newer), "an end of the same version stays")
	st, err := s.read(t.Context(), 0, pollChanges, old.Key)
	require.NoError(t, err)
	assert.Equal(t, end.Text(), st.stored)
	assert.Equal(t, override.Stats{Sum: end.Hash(), Entries: 1, Bytes: len(end.Key) + len(end.Text())}, st.stats)
	assert.Equal(t, storedReply, write(opDrop, end))
	st, err = s.read(t.Context(), 0, 0, "")
	require.NoError(t, err)
	assert.Zero(t, st.stats)
}
