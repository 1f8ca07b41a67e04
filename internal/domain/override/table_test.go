package override_test

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

var byHeader = clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-api-client"}

func keyOf(client string) clientkey.BucketKey {
	return clientkey.NewBucketKey("search", byHeader, client)
}

func entry(client string, version domain.Instant, effect string) override.Entry {
	return override.Entry{Key: keyOf(client), Version: version, Value: override.Value{Effect: effect, Client: client}}
}

// searchPolicy is the policy of the entries' keys.
func searchPolicy(t *testing.T) *policy.Policy {
	t.Helper()
	burst, err := domain.NewBucket("burst", 10, 1, time.Hour)
	require.NoError(t, err)
	daily, err := domain.NewBucket("daily", 1000, 1, time.Hour)
	require.NoError(t, err)
	p := &policy.Policy{Name: "search", Key: clientkey.Key{byHeader}, Limits: []domain.Limit{burst, daily}, OnStoreFailure: policy.FailOpen}
	require.NoError(t, p.Compile())
	return p
}

func TestEntry_isReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := override.Entry{Key: keyOf(rapid.String().Draw(t, "key")), Version: domain.Instant(rapid.Int64Min(0).Draw(t, "version"))}
		if e.Ended = rapid.Bool().Draw(t, "ended"); !e.Ended {
			e.Value = override.Value{
				Effect: rapid.String().Draw(t, "effect"), ExpiresAt: domain.Instant(rapid.Int64Min(0).Draw(t, "expiry")),
				Client: rapid.String().Draw(t, "client"), Note: rapid.String().Draw(t, "note"),
			}
		}
		got, err := override.ParseEntry(e.Key, e.Text())
		require.NoError(t, err)
		require.Equal(t, e, got)
	})
}

func FuzzParseEntry(f *testing.F) {
	e := entry("a", 7, "block")
	for _, seed := range []string{"", e.Text(), "1:0:0:9:0:", "1:2:0:0:0:", "1:0:0:0:9223372036854775807:", "-1:0:0:0:0:", "1:0:0:0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := override.ParseEntry("search:ip=a", text)
		if err != nil {
			return
		}
		again, err := override.ParseEntry(e.Key, e.Text())
		require.NoError(t, err)
		require.Equal(t, e, again)
	})
}

func TestEntry_order(t *testing.T) {
	old, later := entry("a", 1, "x"), entry("a", 2, "x")
	end := old.End()
	assert.True(t, later.NewerThan(&old))
	assert.False(t, old.NewerThan(&later))
	assert.True(t, end.NewerThan(&old), "the end of an entry wins over the entry")
	assert.False(t, old.NewerThan(&end))
	assert.True(t, later.NewerThan(&end), "and not over a later one")
	assert.False(t, old.NewerThan(&old))
	same := entry("a", 1, "y")
	assert.NotEqual(t, same.NewerThan(&old), old.NewerThan(&same), "all decide alike about two changes of one time")
}

// Copies that got the same entries, in whatever order and however often, are equal, and each agrees with a plain map.
func TestTable_mergesInAnyOrder(t *testing.T) {
	p := searchPolicy(t)
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) override.Entry {
			n := rapid.IntRange(0, 200).Draw(t, "client")
			e := entry(fmt.Sprint(n), domain.Instant(rapid.IntRange(0, 5).Draw(t, "version")), "")
			if e.Ended = rapid.Bool().Draw(t, "ended"); e.Ended {
				e.Value = override.Value{}
			} else {
				e.Effect = rapid.SampledFrom([]string{"block", "exempt"}).Draw(t, "effect")
				e.ExpiresAt = domain.Instant(rapid.SampledFrom([]int{0, 0, 5, 6}).Draw(t, "expiry"))
				e.Client = rapid.SampledFrom([]string{e.Client, "another"}).Draw(t, "listed")
				e.Note = rapid.SampledFrom([]string{"", "ticket 7"}).Draw(t, "note")
			}
			return e
		}), rapid.SampledFrom([]int{0, 200}).Draw(t, "least"), 400).Draw(t, "entries") // 200 fill the first index several times
		model := map[clientkey.BucketKey]override.Entry{}
		a, b := override.NewTable(), override.NewTable()
		for _, e := range entries {
			a.Merge(e)
			if old, found := model[e.Key]; !found || e.NewerThan(&old) {
				model[e.Key] = e
			}
		}
		b.Merge(rapid.Permutation(append(slices.Clone(entries), entries...)).Draw(t, "order")...)
		require.Equal(t, a.Stats(), b.Stats())
		got := map[clientkey.BucketKey]override.Entry{}
		a.All(func(e override.Entry) { got[e.Key] = e })
		require.Equal(t, model, got)
		live, late := 0, 0 // late: in force at 5
		for key, e := range model {
			found, there := a.Get(key)
			require.True(t, there)
			require.Equal(t, e, found)
			terms := a.Find(key)
			require.Equal(t, !e.Ended, terms != nil)
			if e.Ended {
				continue
			}
			require.Equal(t, e.ExpiresAt, terms.ExpiresAt())
			rules, _ := a.Rules(terms, p)
			require.Equal(t, e.Effect, map[bool]string{true: "block", false: "exempt"}[rules.Blocked])
			live++
			if e.InForce(5) {
				late++
			}
		}
		require.Equal(t, live > 0, a.Has("search"))
		require.Equal(t, live == 0, a.Empty())
		require.Equal(t, live, a.InForce(0))
		require.Equal(t, late, a.InForce(5))
		require.Len(t, a.Page("search", "", "", 1000, 5), late)
		a.Drop(slices.Collect(maps.Values(model))...)
		require.Equal(t, override.Stats{}, a.Stats())
		for key := range model {
			require.Nil(t, a.Find(key))
		}
		require.False(t, a.Has("search"))
		require.True(t, a.Empty())
		a.Merge(entries...)
		require.Equal(t, b.Stats(), a.Stats(), "what was removed can come again")
	})
}

func TestTable_endsWhatHasExpired(t *testing.T) {
	now := domain.InstantOf(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
	table := override.NewTable()
	e := entry("a", now, "block")
	e.ExpiresAt = now.Add(time.Hour)
	table.Merge(e, entry("b", now, "block"))
	ends, forgotten := table.Due(now.Add(time.Hour + time.Minute))
	require.Empty(t, append(ends, forgotten...))
	assert.Equal(t, 1, table.InForce(now.Add(time.Hour)))
	ends, _ = table.Due(now.Add(time.Hour + time.Minute + time.Second))
	require.Equal(t, []override.Entry{e.End()}, ends)
	table.Merge(ends...)
	_, forgotten = table.Due(now.Add(override.KeptAfterEnd))
	require.Empty(t, forgotten)
	_, forgotten = table.Due(now.Add(override.KeptAfterEnd + time.Second))
	require.Equal(t, ends, forgotten)
	table.Drop(forgotten...)
	assert.Equal(t, 1, table.Stats().Entries)
}

func TestTable_dropsOnlyWhatIsUnchanged(t *testing.T) {
	table := override.NewTable()
	old := entry("a", 1, "block")
	table.Merge(old, entry("a", 2, "exempt"))
	table.Drop(old)
	assert.Equal(t, 1, table.Stats().Entries)
}

// blockAll gives each of so many clients an override of that version.
func blockAll(table *override.Table, clients int, version domain.Instant) {
	for i := range clients {
		table.Merge(entry(fmt.Sprint(i), version, "block"))
	}
}

func TestTable_listsEachClientOnceWhileItChanges(t *testing.T) {
	table := override.NewTable()
	const clients = 50
	blockAll(table, clients, 0)
	var listed atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for version := domain.Instant(1); !listed.Load(); version++ {
			blockAll(table, clients, version)
		}
	})
	for range 2000 {
		seen := make(map[string]bool)
		for _, e := range table.Page("search", "", "", 2*clients, 0) {
			assert.False(t, seen[e.Client], "%s is listed twice", e.Client)
			seen[e.Client] = true
		}
		assert.Len(t, seen, clients)
	}
	listed.Store(true)
	wg.Wait()
}

func TestTable_keepsNoMemoryForWhatWasDropped(t *testing.T) {
	for name, entryOf := range map[string]func(i int) override.Entry{
		"alike": func(i int) override.Entry { return entry(fmt.Sprint(i), 1, "block") },
		"each with an effect and an expiry of its own": func(i int) override.Entry {
			e := entry(fmt.Sprint(i), 1, fmt.Sprintf(`[{"name":"burst","capacity":%d}]`, 1+i))
			e.ExpiresAt = domain.Instant(1 + i)
			return e
		},
		"ended": func(i int) override.Entry {
			e := entry(fmt.Sprint(i), 1, "block")
			if i > 0 {
				e = e.End()
			}
			return e
		},
	} {
		t.Run(name, func(t *testing.T) {
			table := override.NewTable()
			before := heap()
			var entries []override.Entry
			for i := range 100_000 {
				entries = append(entries, entryOf(i))
			}
			table.Merge(entries...)
			full := heap()
			table.Drop(entries[1:]...)
			first := entries[0]
			runtime.KeepAlive(entries)
			entries = nil
			assert.Less(t, heap()-before, (full-before)/20)
			assert.NotNil(t, table.Find(first.Key))
			runtime.KeepAlive(table)
		})
	}
}

// Readers need no lock. The race detector watches this one.
func TestTable_isReadWhileItChanges(t *testing.T) {
	table := override.NewTable()
	p := searchPolicy(t)
	const clients = 2000
	capacityOf := func(client int) domain.Tokens { return domain.Tokens(1 + client) }
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range 20 * clients {
				client := i % clients
				if terms := table.Find(keyOf(fmt.Sprint(client))); terms != nil {
					rules, _ := table.Rules(terms, p)
					if !rules.Applies || rules.Groups[0].Limits[0].Capacity() != capacityOf(client) {
						t.Errorf("client %d has %+v", client, rules)
						return
					}
				}
			}
		})
	}
	for version := range domain.Instant(5) {
		for i := range clients {
			e := entry(fmt.Sprint(i), version, fmt.Sprintf(`[{"name":"burst","capacity":%d}]`, capacityOf(i)))
			if (i+int(version))%3 == 0 {
				e = e.End()
			}
			table.Merge(e)
		}
	}
	wg.Wait()
}

// A client whose override changes always has one: the old or the new, also while others come and go.
func TestTable_changesHideNothing(t *testing.T) {
	table := override.NewTable()
	const clients = 100
	blockAll(table, clients, 0)
	var changed atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer changed.Store(true)
		for version := range domain.Instant(1000) {
			for i := range clients {
				table.Merge(entry(fmt.Sprint(i), version+1, []string{"block", "exempt"}[version%2]))
				other := entry(fmt.Sprint("other-", version, i), 0, "block")
				table.Merge(other, other.End())
				table.Drop(other.End())
			}
		}
	})
	for !changed.Load() {
		for i := range clients {
			if table.Find(keyOf(fmt.Sprint(i))) == nil {
				t.Errorf("the override of %d is missing", i)
				wg.Wait()
				return
			}
		}
	}
	wg.Wait()
	assert.Nil(t, table.Find(keyOf("other")))
	assert.Equal(t, clients, table.Stats().Entries)
}

// 100,000 distinct overrides, each with limits of its own, and as many compiled as are kept.
func TestTable_isSmall(t *testing.T) {
	p := searchPolicy(t)
	const n = 100_000
	before := heap()
	table := override.NewTable()
	for i := range n {
		client := fmt.Sprintf("customer-%08d", i)
		e := entry(client, domain.Instant(1_800_000_000_000_000+i), fmt.Sprintf(`[{"name":"burst","rate":"%d/s","capacity":%d}]`, 1+i, 100+i))
		e.Note = fmt.Sprintf("ticket %d", 40_000+i)
		table.Merge(e)
	}
	for i := range n {
		r := table.Find(keyOf(fmt.Sprintf("customer-%08d", i)))
		require.NotNil(t, r)
		rules, _ := table.Rules(r, p)
		require.NoError(t, rules.Unfit)
		require.Equal(t, domain.Tokens(100+i), rules.Groups[0].Limits[0].Capacity())
	}
	size := heap() - before
	t.Logf("%d overrides take %.1f MB", n, float64(size)/1e6)
	assert.Less(t, size, 40_000_000)
	runtime.KeepAlive(table)
}

func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
