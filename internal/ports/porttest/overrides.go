package porttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// OverrideHarness makes stores of overrides.
type OverrideHarness struct {
	// New returns two stores that follow each other, and are empty. They may be one store.
	New func(t *testing.T, bounds ports.OverrideBounds) (a, b ports.OverrideStore)
	// Unreachable returns a store whose servers do not answer. It is nil for a store without servers.
	Unreachable func(t *testing.T) ports.OverrideStore
}

// propagation is more than a change takes to be known everywhere, on a busy machine.
const propagation = 20 * time.Second

// TestOverrideStore tests the contract of [ports.OverrideStore]. Every store must pass it unchanged.
func TestOverrideStore(t *testing.T, h OverrideHarness) {
	for _, s := range []struct {
		name string
		run  func(*testing.T, OverrideHarness)
	}{
		{"a change is known here at once, and soon everywhere", changeIsFollowed},
		{"versions grow, and the newest change wins", newestWins},
		{"an end is known everywhere, and comes once", endsOnce},
		{"an override that has expired is not in force", expiredIsNot},
		{"what does not fit is refused, and nothing is removed", fullIsRefused},
		{"texts are kept as they are", textsAreKept},
		{"concurrent changes end up equal everywhere", concurrentChanges},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, h) })
	}
	if h.Unreachable != nil {
		t.Run("a store whose servers do not answer says so, and knows nothing", func(t *testing.T) {
			s := h.Unreachable(t)
			_, _, err := s.ChangeOverride(t.Context(), overrideKey("a"), valueOf("block", "a"))
			require.ErrorIs(t, err, ports.ErrUnavailable)
			assert.False(t, s.OverridesStatus().Known)
			assert.Zero(t, s.OverridesStatus().Count)
		})
	}
}

func overrideKey(client string) clientkey.BucketKey {
	return clientkey.NewBucketKey("search", clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client"}, client)
}

func valueOf(effect, client string) *override.Value {
	return &override.Value{Effect: effect, Client: client}
}

func newStores(t *testing.T, h OverrideHarness) (a, b ports.OverrideStore) {
	return h.New(t, ports.DefaultOverrideBounds)
}

func change(t *testing.T, s ports.OverrideStore, client string, v *override.Value) (before, after override.Entry) {
	t.Helper()
	before, after, err := s.ChangeOverride(t.Context(), overrideKey(client), v)
	require.NoError(t, err)
	return before, after
}

// requireSoon waits until the store has this entry.
func requireSoon(t *testing.T, s ports.OverrideStore, want override.Entry) {
	t.Helper()
	require.Eventually(t, func() bool {
		got, _ := s.Overrides().Get(want.Key)
		return got == want
	}, propagation, time.Millisecond, "%v", want)
}

func changeIsFollowed(t *testing.T, h OverrideHarness) {
	a, b := newStores(t, h)
	before, after := change(t, a, "alice", valueOf("block", "alice"))
	assert.Zero(t, before)
	assert.Equal(t, override.Entry{Key: overrideKey("alice"), Version: after.Version, Value: override.Value{Effect: "block", Client: "alice"}}, after)
	assert.Positive(t, after.Version)
	got, found := a.Overrides().Get(after.Key)
	assert.True(t, found)
	assert.Equal(t, after, got)
	requireSoon(t, b, after)
	require.Eventually(t, func() bool { return b.OverridesStatus().Known }, propagation, time.Millisecond)
	assert.Equal(t, 1, b.OverridesStatus().Count)
	assert.True(t, b.Overrides().Has("search"))
	assert.False(t, b.Overrides().Has("searc"))
}

func newestWins(t *testing.T, h OverrideHarness) {
	a, b := newStores(t, h)
	var last override.Entry
	for i := range 10 {
		s := []ports.OverrideStore{a, b}[i%2]
		before, after := change(t, s, "alice", valueOf(fmt.Sprint("effect ", i), "alice"))
		assert.Equal(t, last, before)
		assert.Greater(t, after.Version, last.Version)
		last = after
	}
	requireSoon(t, a, last)
	requireSoon(t, b, last)
}

func endsOnce(t *testing.T, h OverrideHarness) {
	a, b := newStores(t, h)
	_, _, err := a.ChangeOverride(t.Context(), overrideKey("bob"), nil)
	require.ErrorIs(t, err, ports.ErrNoOverride)
	_, set := change(t, a, "bob", valueOf("exempt", "bob"))
	before, end := change(t, b, "bob", nil)
	assert.Equal(t, set, before)
	assert.True(t, end.Ended)
	assert.Greater(t, end.Version, set.Version)
	requireSoon(t, a, end)
	assert.Nil(t, a.Overrides().Find(end.Key))
	assert.Zero(t, a.OverridesStatus().Count)
	_, _, err = a.ChangeOverride(t.Context(), overrideKey("bob"), nil)
	require.ErrorIs(t, err, ports.ErrNoOverride)
	_, again := change(t, a, "bob", valueOf("exempt", "bob"))
	requireSoon(t, b, again)
}

func expiredIsNot(t *testing.T, h OverrideHarness) {
	a, _ := newStores(t, h)
	v := valueOf("block", "carol")
	v.ExpiresAt = domain.InstantOf(time.Now().Add(-time.Second))
	_, e := change(t, a, "carol", v)
	assert.False(t, e.InForce(domain.InstantOf(time.Now())))
	assert.Zero(t, a.OverridesStatus().Count)
	_, _, err := a.ChangeOverride(t.Context(), e.Key, nil)
	require.ErrorIs(t, err, ports.ErrNoOverride)
}

func fullIsRefused(t *testing.T, h OverrideHarness) {
	a, _ := h.New(t, ports.OverrideBounds{Live: 2, Entries: 3, Bytes: 1000})
	refused := func(client string, v *override.Value) {
		t.Helper()
		_, _, err := a.ChangeOverride(t.Context(), overrideKey(client), v)
		require.ErrorIs(t, err, ports.ErrOverridesFull)
	}
	change(t, a, "a", valueOf("block", "a"))
	change(t, a, "b", valueOf("block", "b"))
	refused("c", valueOf("block", "c"))
	change(t, a, "a", valueOf("exempt", "a")) // one that is there may be replaced
	refused("a", valueOf(strings.Repeat("x", 1000), "a"))
	change(t, a, "b", nil)
	change(t, a, "c", valueOf("block", "c"))
	change(t, a, "c", nil)
	refused("d", valueOf("block", "d")) // three are remembered
	got, _ := a.Overrides().Get(overrideKey("a"))
	assert.Equal(t, "exempt", got.Effect)
}

func textsAreKept(t *testing.T, h OverrideHarness) {
	a, b := newStores(t, h)
	var all []override.Entry
	for _, client := range []string{
		"", "a:b", "1:0:0:0:0:", "\x00\r\n", "ü&=%{}", strings.Repeat("k", 1000), "=", "#1", "a&b",
	} {
		v := &override.Value{Effect: `[{"name":"` + client, ExpiresAt: 1 << 60, Client: client, Note: "why\n" + client}
		_, after := change(t, a, client, v)
		assert.Equal(t, *v, after.Value)
		all = append(all, after)
	}
	for _, after := range all {
		requireSoon(t, b, after)
	}
}

func concurrentChanges(t *testing.T, h OverrideHarness) {
	a, b := newStores(t, h)
	const workers, changes = 8, 20
	done := make(chan error, workers)
	for w := range workers {
		go func() {
			s := []ports.OverrideStore{a, b}[w%2]
			for i := range changes {
				v := valueOf(fmt.Sprint(w, " ", i), "x")
				if i%5 == 4 {
					v = nil
				}
				_, _, err := s.ChangeOverride(context.WithoutCancel(t.Context()), overrideKey(fmt.Sprint(i%3)), v)
				if err != nil && !errors.Is(err, ports.ErrNoOverride) && !errors.Is(err, ports.ErrUnavailable) { // others were quicker
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range workers {
		require.NoError(t, <-done)
	}
	require.Eventually(t, func() bool { return a.Overrides().Stats() == b.Overrides().Stats() }, propagation, time.Millisecond)
	assert.Equal(t, 3, a.Overrides().Stats().Entries)
}
