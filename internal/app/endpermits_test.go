package app_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var clientA = ports.ClientID{Policy: "default", Key: "a"}

// permitsHeld returns how many permits a client holds of its limit parallel, and their IDs.
func permitsHeld(t *testing.T, s *fixture, id ports.ClientID) (n domain.Tokens, ids []string) {
	t.Helper()
	report, err := s.Inspect(t.Context(), id)
	require.NoError(t, err)
	for _, level := range report.Limits {
		if level.Limit.Kind() != domain.KindConcurrency {
			assert.Empty(t, level.Permits)
			continue
		}
		n = level.Limit.Concurrency().Held(level.State)
		for _, p := range level.Permits {
			ids = append(ids, p.ID)
			assert.Equal(t, report.Now.Add(time.Minute), p.Expires)
		}
	}
	return n, ids
}

func TestInspect_listsThePermits(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	n, ids := permitsHeld(t, s, clientA)
	assert.Zero(t, n)
	assert.Empty(t, ids)
	first, second := s.must(t, holding(10)), s.must(t, holding(10))
	n, ids = permitsHeld(t, s, clientA)
	assert.Equal(t, domain.Tokens(2), n)
	assert.ElementsMatch(t, []string{first.PermitID, second.PermitID}, ids)
}

func TestEndPermits_endsOneOrAllAndRefundsNothing(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	first, second := s.must(t, holding(10)), s.must(t, holding(10))
	for i, want := range []int{1, 0} {
		ended, err := s.EndPermits(t.Context(), clientA, first.PermitID)
		require.NoError(t, err)
		assert.Equal(t, want, ended, "call %d", i)
	}
	_, ids := permitsHeld(t, s, clientA)
	assert.Equal(t, []string{second.PermitID}, ids)
	third := s.must(t, holding(10))
	require.True(t, third.Allowed(), "there is a place again")

	require.NoError(t, s.Reset(t.Context(), clientA))
	n, _ := permitsHeld(t, s, clientA)
	assert.Equal(t, domain.Tokens(2), n, "a reset ends no permit")
	for _, want := range []int{2, 0} {
		ended, err := s.EndPermits(t.Context(), clientA, "")
		require.NoError(t, err)
		assert.Equal(t, want, ended)
	}
	released, err := s.Release(t.Context(), third.Permit, 0)
	require.NoError(t, err)
	assert.False(t, released)
	d := s.must(t, holding(0))
	assert.Equal(t, []domain.Tokens{50, 2, 70}, []domain.Tokens{d.Limits[0].Remaining, d.Limits[1].Remaining, d.Limits[2].Remaining},
		"what the tenant was charged for all three stays spent")
	assert.NoError(t, s.Close(t.Context()))
}

// More permits are held than a list shows, and each of two limits has them.
func TestEndPermits_endsMoreThanAreListed(t *testing.T) {
	p := parallel(t, policy.FailOpen)
	p.Limits = []domain.Limit{mustConcurrent(t, "parallel", 1000, time.Minute), mustConcurrent(t, "also", 1000, time.Minute)}
	p.LimitKeys = nil
	s := fixtureOf(t, p)
	const many = 2*domain.MaxListed + 50
	for range many {
		require.True(t, s.must(t, holding(1)).Allowed())
	}
	other := holding(1)
	other.Key = "b"
	s.must(t, other)
	n, ids := permitsHeld(t, s, clientA)
	assert.Equal(t, domain.Tokens(many), n)
	assert.Len(t, ids, 2*domain.MaxListed, "those of each limit")
	ended, err := s.EndPermits(t.Context(), clientA, "")
	require.NoError(t, err)
	assert.Equal(t, many, ended)
	n, _ = permitsHeld(t, s, clientA)
	assert.Zero(t, n)
	n, _ = permitsHeld(t, s, ports.ClientID{Policy: "default", Key: "b"})
	assert.Equal(t, domain.Tokens(1), n)
}

func TestEndPermits_inTheProcessToo(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailLocal))
	s.must(t, holding(1))
	s.store.fail = failing(ports.ErrOverloaded)
	s.must(t, holding(1))
	ended, err := s.EndPermits(t.Context(), clientA, "")
	require.ErrorIs(t, err, ports.ErrOverloaded)
	assert.Equal(t, 1, ended)
	s.store.fail = nil
	ended, err = s.EndPermits(t.Context(), clientA, "")
	require.NoError(t, err)
	assert.Equal(t, 1, ended)
}

func TestEndPermits_endsNoMoreThanWereHeldWhileOthersTake(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	s.must(t, holding(1))
	s.store.fail = func(req *ports.TakeRequest) error { // another node takes one before each list
		if req.Op == domain.OpList {
			domain.Apply(domain.Operation{Op: domain.OpTake, Cost: 1, Permit: fmt.Sprint("other", len(s.store.ops))}, req.Limits,
				make([]domain.State, len(req.Limits)), s.store.permitsOf(req), fakeNow)
		}
		return nil
	}
	ended, err := s.EndPermits(t.Context(), clientA, "")
	require.NoError(t, err)
	assert.Equal(t, 2, ended)
}

func TestEndPermits_refusesWhatItCannotName(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	for want, ask := range map[string]struct {
		id     ports.ClientID
		permit string
	}{
		`id: "a b": must be the ID of a permit, as an inspection shows it`: {clientA, "a b"},
		`policy: "default": has no concurrency limit by header:x-tenant, so that no one holds permits`: {
			ports.ClientID{Policy: "default", Key: "t", Source: "header:x-tenant"}, "",
		},
		`key: must not be empty`: {ports.ClientID{Policy: "default"}, ""},
	} {
		ended, err := s.EndPermits(t.Context(), ask.id, ask.permit)
		require.EqualError(t, err, want)
		require.ErrorIs(t, err, domain.ErrInvalidRequest)
		assert.Zero(t, ended)
	}
	_, err := s.EndPermits(t.Context(), ports.ClientID{Policy: "other", Key: "a"}, "")
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
	assert.Zero(t, s.store.calls)
}
