package load_test

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/load"
)

func TestRun_measuresAfterTheWarmUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		var atStart, atEnd int64
		r, err := load.Run(t.Context(), load.Config{
			Workers: 4, Warmup: time.Second, Duration: 2 * time.Second,
			NewCall: func(int) (load.Call, error) {
				return func(*rand.Rand) (load.Outcome, error) {
					calls.Add(1)
					time.Sleep(10 * time.Millisecond)
					return load.Outcome{Decisions: 3, Allowed: 2, Degraded: 1}, nil
				}, nil
			},
			Started: func() error { atStart = calls.Load(); return nil },
			Ended:   func() error { atEnd = calls.Load(); return nil },
		})
		require.NoError(t, err)
		assert.EqualValues(t, 400, atStart, "the warm-up: 4 workers, 100 calls a second")
		assert.EqualValues(t, 1200, atEnd)
		assert.EqualValues(t, 800, r.Calls)
		assert.EqualValues(t, 2400, r.Decisions)
		assert.EqualValues(t, 1600, r.Allowed)
		assert.EqualValues(t, 800, r.Degraded)
		assert.Equal(t, 2*time.Second, r.Elapsed)
		assert.InDelta(t, 1200, r.PerSecond(), 1e-9)
		assert.Equal(t, 10*time.Millisecond, r.Latency(50))
	})
}

func TestRun_isBoundedByCount(t *testing.T) {
	r, err := load.Run(t.Context(), load.Config{
		Workers: 2, Duration: time.Hour, MaxCalls: 100,
		NewCall: func(int) (load.Call, error) {
			return func(*rand.Rand) (load.Outcome, error) { return load.Outcome{Decisions: 1}, nil }, nil
		},
	})
	require.NoError(t, err)
	assert.EqualValues(t, 100, r.Calls)
}

func TestRun_drawsTheSameClientsForEverySubject(t *testing.T) {
	draw := func() (drawn [2][]int) {
		_, err := load.Run(t.Context(), load.Config{
			Workers: 2, Seed: 7, Duration: time.Hour, MaxCalls: 20,
			NewCall: func(worker int) (load.Call, error) {
				return func(rng *rand.Rand) (load.Outcome, error) {
					drawn[worker] = append(drawn[worker], rng.IntN(1000))
					return load.Outcome{}, nil
				}, nil
			},
		})
		require.NoError(t, err)
		return drawn
	}
	first := draw()
	assert.Equal(t, first, draw())
	assert.NotEqual(t, first[0], first[1], "two workers draw differently")
}

func TestRun_endsAtTheFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("connection refused")
		began := time.Now()
		_, err := load.Run(t.Context(), load.Config{
			Workers: 8, Duration: time.Hour,
			NewCall: func(worker int) (load.Call, error) {
				return func(*rand.Rand) (load.Outcome, error) {
					time.Sleep(time.Second)
					if worker == 3 {
						return load.Outcome{}, broken
					}
					return load.Outcome{Decisions: 1}, nil
				}, nil
			},
		})
		assert.ErrorIs(t, err, broken)
		assert.LessOrEqual(t, time.Since(began), 2*time.Second)
	})
}
