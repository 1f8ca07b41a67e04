package redisstore_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

func hourly(t *testing.T, tokens domain.Tokens) domain.Limit {
	t.Helper()
	schedule, err := calendar.Parse("hour", "", "")
	require.NoError(t, err)
	l, err := domain.NewQuota("hourly", tokens, schedule)
	require.NoError(t, err)
	return l
}

// A server whose clock differs from this machine's by hours, and jumps, costs a second call after each jump, and nothing else.
func TestQuota_periodsAreThoseOfTheServersClock(t *testing.T) {
	server := redistest.Start(t)
	c := plainClient(t, server.Addr)
	s, err := redisstore.NewWithClockKey(config(server.Addr))
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	l := hourly(t, 10)
	base := domain.InstantOf(time.Date(2040, 1, 1, 12, 10, 0, 0, time.UTC))
	for _, step := range []struct {
		what  string
		at    time.Duration // of the server's clock, after base
		left  domain.Tokens
		calls string // in all; the first was for a script that was not known
	}{
		{"nothing is known of its clock", 0, 9, "2"},
		{"known", time.Second, 8, "3"},
		{"the next period, of which the arguments hold the end", time.Hour, 9, "4"},
		{"two hours ahead", 3 * time.Hour, 9, "6"},
		{"hours back: what was used is ahead of the clock, and counts", -30 * time.Hour, 8, "8"},
		{"known again", -30 * time.Hour, 7, "9"},
	} {
		setClock(t, c, base.Add(step.at))
		r := takeOne(t, s, "a", 1, l)
		assert.Equal(t, base.Add(step.at), r.Now, step.what)
		assert.Equal(t, step.left, l.Remaining(r.States[0]), step.what)
		assert.Equal(t, step.calls, calls(t, c, "evalsha"), step.what)
	}
}
