package invariant_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/velocity-limiter/velocity/bench/internal/invariant"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
)

var limit = peer.Limit{Tokens: 5, Per: time.Second, Capacity: 10}

func TestCheck(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(offsets ...time.Duration) (admissions []invariant.Admission) {
		for _, o := range offsets {
			admissions = append(admissions, invariant.Admission{Asked: start.Add(o), Answered: start.Add(o)})
		}
		return admissions
	}
	burst := make([]time.Duration, 19)
	for i := range burst {
		burst[i] = time.Duration(i) * time.Millisecond
	}
	cases := []struct {
		name        string
		admissions  []invariant.Admission
		inOneSecond int
		over        float64
	}{
		{"nothing", nil, 0, 0},
		{"a bucket's burst", at(burst[:10]...), 10, 0},
		{"19 within 18 ms", at(burst...), 19, 19 - 10 - 5*0.018},
		{"two that are more than a second apart", at(0, 1001*time.Millisecond), 1, 0},
		{"two that are a second apart", at(0, time.Second), 2, 0},
	}
	for _, c := range cases {
		f := invariant.Check(limit, c.admissions)
		assert.Equal(t, c.inOneSecond, f.InOneSecond, c.name)
		assert.InDelta(t, c.over, f.Over, 1e-9, c.name)
	}
}

func TestAtTheEdge_findsTheExcessOfAFixedWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := invariant.AtTheEdge(t.Context(), fixedWindow(10, 2*time.Second), "c", limit, limit.Window())
		require.NoError(t, err)
		assert.Equal(t, 19, f.InOneSecond, "nine before the edge, ten after it")
		assert.Greater(t, f.Over, 8.0)
	})
}

func TestAtTheEdge_findsNothingAgainstATokenBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := rate.NewLimiter(5, 10)
		f, err := invariant.AtTheEdge(t.Context(), paced(bucket.Allow), "c", limit, limit.Window())
		require.NoError(t, err)
		assert.InDelta(t, 12, f.InOneSecond, 1)
		assert.Zero(t, f.Over)
	})
}

func TestWorstAtTheEdge_isTheWorstOfItsTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Two of three clients are under a token bucket; the one in the middle is not.
		takes := map[string]peer.Take{
			"c0": paced(rate.NewLimiter(5, 10).Allow), "c1": fixedWindow(10, 2*time.Second), "c2": paced(rate.NewLimiter(5, 10).Allow),
		}
		take := func(ctx context.Context, client string) (bool, error) { return takes[client](ctx, client) }
		f, err := invariant.WorstAtTheEdge(t.Context(), take, "c", limit, limit.Window(), 3)
		require.NoError(t, err)
		assert.Equal(t, 19, f.InOneSecond)
	})
}

func TestSpentByDenials(t *testing.T) {
	counter := func(capacity int) peer.Take {
		return func(context.Context, string) (bool, error) { capacity--; return capacity >= 0, nil }
	}
	wide := counter(invariant.Wide.Capacity)
	narrow := counter(invariant.Narrow.Capacity)
	both := func(ctx context.Context, client string) (bool, error) {
		if ok, _ := wide(ctx, client); !ok {
			return false, nil
		}
		return narrow(ctx, client)
	}
	spent, err := invariant.SpentByDenials(t.Context(), both, wide, "c")
	require.NoError(t, err)
	assert.Equal(t, 10, spent)

	wide, narrow = counter(invariant.Wide.Capacity), counter(invariant.Narrow.Capacity)
	together := func(ctx context.Context, client string) (bool, error) {
		if ok, _ := narrow(ctx, client); !ok {
			return false, nil
		}
		return wide(ctx, client)
	}
	spent, err = invariant.SpentByDenials(t.Context(), together, wide, "c")
	require.NoError(t, err)
	assert.Zero(t, spent)
}

func TestSpentByDenials_failsForALimiterThatDoesNotLimit(t *testing.T) {
	always := func(context.Context, string) (bool, error) { return true, nil }
	_, err := invariant.SpentByDenials(t.Context(), always, always, "c")
	assert.ErrorContains(t, err, "11 requests passed a limit of 1")
}

// fixedWindow counts in windows that start with the first request.
func fixedWindow(capacity int, window time.Duration) peer.Take {
	var ends time.Time
	taken := 0
	return paced(func() bool {
		if now := time.Now(); !now.Before(ends) {
			ends, taken = now.Add(window), 0
		}
		taken++
		return taken <= capacity
	})
}

// paced lets each answer take a millisecond of the bubble's clock.
func paced(allow func() bool) peer.Take {
	return func(context.Context, string) (bool, error) {
		time.Sleep(time.Millisecond)
		return allow(), nil
	}
}
