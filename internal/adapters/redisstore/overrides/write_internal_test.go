package overrides

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func newServer(t *testing.T) (s *Server, write func(op string, e override.Entry) string) {
	client := redis.NewClient(&redis.Options{Addr: redistest.Start(t).Addr, Protocol: 2, PipelinePoolSize: -1})
	t.Cleanup(func() { _ = client.Close() })
	s = &Server{Name: "shard-0", Client: client}
	return s, func(op string, e override.Entry) string {
		reply, err := s.write(t.Context(), op, ports.DefaultOverrideBounds, e)
		require.NoError(t, err)
		return reply[0]
	}
}

// A change that arrives late does not replace a newer one, and one that has changed since is not removed.
func TestWrite_keepsTheNewestEntry(t *testing.T) {
	s, write := newServer(t)
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

// The counts of a server are right, or can be corrected, whatever someone has written to the Hash.
func TestWrite_countsOfAnEditedHash(t *testing.T) {
	e := override.Entry{Key: "search:ip=a", Version: 1, Value: override.Value{Effect: "exempt", Client: "a"}}
	end := override.Entry{Key: e.Key, Version: 2, Ended: true}
	for _, c := range []struct {
		name, field, value string
		number             int64 // of the last change, after the end
		right              bool  // without a correction
	}{
		{"nothing", "other", "x", 2, true},
		{"a value that is not ours, and left out", string(e.Key), strings.Repeat("x", 2100), 2, true},
		{"counts too low", "=", "7 0 0 0 0", 8, false},
		{"counts below zero", "=", "7 0 0 0 -9", 1, false},
		{"no counts", "=", "", 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, write := newServer(t)
			require.Equal(t, storedReply, write(opPut, e))
			require.NoError(t, s.Client.HSet(t.Context(), Key, c.field, c.value).Err())
			if c.field == string(e.Key) {
				require.NoError(t, s.correct(t.Context(), 1, override.Stats{}))
			}
			require.Equal(t, storedReply, write(opPut, end))

			want := override.Stats{Sum: end.Hash(), Entries: 1, Bytes: len(end.Key) + len(end.Text())}
			st, err := s.read(t.Context(), newest, 0, "")
			require.NoError(t, err)
			assert.Equal(t, c.number, st.number)
			assert.Equal(t, c.right, want == st.stats, "%+v", st.stats)

			for _, edited := range []string{"", "x", "5 1 1 1 1", "5 0 0 0 -9"} { // and once more
				require.NoError(t, s.Client.HSet(t.Context(), Key, "=", edited).Err())
				st, err = s.read(t.Context(), newest, 0, "")
				require.NoError(t, err)
				require.NoError(t, s.correct(t.Context(), st.number, want))
				st, err = s.read(t.Context(), newest, 0, "")
				require.NoError(t, err)
				assert.Equal(t, want, st.stats, "%q", edited)
			}
		})
	}
}
