package app_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestInspect_readsWhatTheStoreHolds(t *testing.T) {
	s := newStage(t, byHeader, domain.FailOpen)
	_, err := s.Decide(t.Context(), domain.Request{Key: "alice", Cost: 2})
	require.NoError(t, err)
	report, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "alice"})
	require.NoError(t, err)
	assert.Equal(t, "header:x-client-id", report.Source)
	assert.Equal(t, domain.StoreRedis, report.Store)
	require.Len(t, report.Limits, 1)
	level := report.Limits[0]
	assert.Equal(t, domain.Tokens(1), level.Limit.Remaining(level.Bucket))
}

func TestReset_fillsTheBucketHereAndThere(t *testing.T) {
	s := newStage(t, byHeader, domain.FailLocal)
	for _, fail := range []func(*ports.TakeRequest) error{nil, failing(ports.ErrUnavailable)} {
		s.store.fail = fail
		d, err := s.Decide(t.Context(), domain.Request{Key: "alice", Cost: 3})
		require.NoError(t, err)
		require.True(t, d.Allowed())
	}
	s.store.fail = nil
	require.NoError(t, s.Reset(t.Context(), ports.ClientID{Policy: "default", Key: "alice"}))
	for _, fail := range []func(*ports.TakeRequest) error{nil, failing(ports.ErrUnavailable)} {
		s.store.fail = fail
		d, err := s.Decide(t.Context(), domain.Request{Key: "alice", Cost: 3})
		require.NoError(t, err)
		assert.True(t, d.Allowed())
	}
}

func TestInspect_findsTheClientThatHadNoKey(t *testing.T) {
	s := newStage(t, byHeader, domain.FailOpen)
	id := ports.ClientID{Policy: "default", Key: "2001:db8::5", Source: "ip"}
	require.NoError(t, s.Reset(t.Context(), id))
	assert.Contains(t, s.store.keys(), domain.BucketKey("default:ip=2001%3Adb8%3A%3A/64"))
	report, err := s.Inspect(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, "ip", report.Source)
}

func TestInspect_refusesWhatItCannotName(t *testing.T) {
	s := newStage(t, byHeader, domain.FailOpen)
	for name, c := range map[string]struct {
		id   ports.ClientID
		want error
	}{
		"unknown policy": {ports.ClientID{Policy: "other", Key: "a"}, ports.ErrUnknownPolicy},
		"empty key":      {ports.ClientID{Policy: "default"}, domain.ErrInvalidRequest},
		"foreign source": {ports.ClientID{Policy: "default", Key: "a", Source: "header:x-other"}, domain.ErrInvalidRequest},
	} {
		_, err := s.Inspect(t.Context(), c.id)
		require.ErrorIs(t, err, c.want, name)
		require.ErrorIs(t, s.Reset(t.Context(), c.id), c.want, name)
	}
	s.store.fail = failing(ports.ErrUnavailable)
	_, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "a"})
	require.ErrorIs(t, err, ports.ErrUnavailable)
}
