package velocity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestFailures_areLoggedAtMostOnceInTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		f := newFailures(&Config{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		fail := func(n int) {
			for range n {
				f.StoreFailed("uploads", policy.FailOpen, errors.New("no such host"))
			}
		}
		fail(50)
		assert.Equal(t, 1, strings.Count(out.String(), "\n"), "%s", &out)
		assert.Contains(t, out.String(), `level=ERROR msg="velocity: the store failed, and the failure mode decided" `+
			`policy=uploads failure_mode=open decisions=1 error="no such host"`)
		time.Sleep(logInterval - time.Millisecond)
		fail(1)
		assert.Equal(t, 1, strings.Count(out.String(), "\n"), "%s", &out)
		time.Sleep(time.Millisecond)
		fail(2)
		assert.Equal(t, 2, strings.Count(out.String(), "\n"), "%s", &out)
		assert.Contains(t, out.String(), "decisions=51", "since the first line")
	})
}

func TestFailures_ofRefundsAndChargesNameNoFailureMode(t *testing.T) {
	var out bytes.Buffer
	f := newFailures(&Config{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	f.StoreFailed("uploads", "", errors.New("no such host"))
	assert.Contains(t, out.String(), `level=ERROR msg="velocity: the store failed a charge, a refund, a release or a renewal" `+
		`policy=uploads failure_mode=none decisions=1 error="no such host"`)
}

// failing is a store that answers every request with its error.
type failing struct{ err error }

func (f failing) TakeMany(_ context.Context, _ []ports.TakeRequest, results []ports.TakeResult) {
	for i := range results {
		results[i].Err = f.err
	}
}

func TestLimiter_errorsSayWhetherTheOperationMayBeRepeated(t *testing.T) {
	l, err := New(Config{Limits: []Limit{PerHour(2)}})
	require.NoError(t, err)
	defer l.Close()
	ctx := t.Context()
	local, err := memstore.New(memstore.DefaultConfig())
	require.NoError(t, err)
	defer local.Close()
	fail := func(cause error) {
		l.shared.limiter = app.NewRateLimiter(failing{cause}, local, l.shared.policies, newFailures(&Config{OnFailure: func(string, error) {}}))
	}
	for _, c := range []struct {
		cause, want, not error
	}{
		{ports.ErrOverloaded, ErrOverloaded, ErrUnavailable},
		{ports.ErrUnavailable, ErrUnavailable, ErrOverloaded},
	} {
		fail(fmt.Errorf("shard-0: %w", c.cause))
		_, err = l.Charge(ctx, "alice", 1)
		require.ErrorIs(t, err, c.want)
		require.NotErrorIs(t, err, c.not)
		_, err = l.Refund(ctx, "alice", 1)
		require.ErrorIs(t, err, c.want)
		require.ErrorIs(t, l.Reset(ctx, "alice"), c.want)
	}
	fail(ports.ErrOverloaded)
	for _, want := range []bool{true, true, false} {
		ok, err := l.Allow(ctx, "alice")
		require.NoError(t, err)
		assert.Equal(t, want, ok, "under overload the memory decides, also if the mode is open")
	}
}

func TestFailures_goToTheHandlerOrTheLog(t *testing.T) {
	var byDefault, own bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewTextHandler(&byDefault, nil)))
	handled := 0
	handle := func(string, error) { handled++ }
	logger := slog.New(slog.NewTextHandler(&own, nil))
	for _, c := range []struct {
		cfg                     Config
		byDefault, own, handled int
	}{
		{Config{}, 1, 0, 0},
		{Config{Logger: logger}, 0, 1, 0},
		{Config{OnFailure: handle}, 0, 0, 1},
		{Config{OnFailure: handle, Logger: logger}, 0, 1, 1},
	} {
		byDefault.Reset()
		own.Reset()
		handled = 0
		newFailures(&c.cfg).StoreFailed("default", policy.FailOpen, errors.New("x"))
		assert.Equal(t, c.byDefault, strings.Count(byDefault.String(), "\n"))
		assert.Equal(t, c.own, strings.Count(own.String(), "\n"))
		assert.Equal(t, c.handled, handled)
	}
}

// A permit that is taken from under its holder is reported once.
func TestFailures_aPermitThatEndsWhileItIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var causes []error
		l, err := New(Config{Limits: []Limit{Concurrent(1)}, OnFailure: func(name string, cause error) {
			assert.Equal(t, DefaultPolicy, name)
			causes = append(causes, cause)
		}})
		require.NoError(t, err)
		p, err := l.Acquire(t.Context(), "alice", 1)
		require.NoError(t, err)
		ended, err := l.shared.limiter.EndPermits(t.Context(), ports.ClientID{Policy: DefaultPolicy, Key: "alice"}, "")
		require.NoError(t, err)
		assert.Equal(t, 1, ended)
		time.Sleep(time.Minute)
		synctest.Wait()
		p.Release()
		assert.Equal(t, []error{ErrPermitEnded}, causes)
		require.NoError(t, l.Close())
	})
}
