package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestValid_refusesAGarbledRangeOfSlots(t *testing.T) {
	for r, want := range map[[3]int]bool{
		{0, 16383, 1}: true, {5461, 10922, 2}: true, {7, 7, 1}: true,
		{0, 16383, 0}: false, {9, 8, 1}: false, {-1, 5, 1}: false, {16000, 16384, 1}: false, {20000, 20001, 1}: false,
	} {
		assert.Equal(t, want, valid(redis.ClusterSlot{Start: r[0], End: r[1], Nodes: make([]redis.ClusterNode, r[2])}), r)
	}
}

func TestOnceCmd_ofSeveralAttemptsTheLastOneCounts(t *testing.T) {
	moved := failure.ScriptError("MOVED 1 127.0.0.1:1")
	lost := fmt.Errorf("read: %w", net.ErrClosed)
	cmd := &onceCmd{Cmd: redis.NewCmd(t.Context(), "evalsha")}
	assert.True(t, cmd.NoRetry())

	cmd.SetErr(moved)
	_, err := cmd.outcome()
	assert.Equal(t, moved, err, "redirects that do not end")
	assert.NoError(t, cmd.Err(), "or else go-redis would not set what comes")

	cmd.SetErr(lost)
	_, err = cmd.outcome()
	assert.Equal(t, lost, err)
	assert.ErrorIs(t, failure.Classify(err).Effect, failure.ErrMayHaveRun)

	cmd = &onceCmd{Cmd: redis.NewCmd(t.Context(), "evalsha")}
	cmd.SetErr(moved)
	cmd.SetErr(nil)
	cmd.SetVal("answer")
	cmd.SetErr(t.Context().Err())
	cmd.SetErr(redis.ErrPoolTimeout)
	reply, err := cmd.outcome()
	require.NoError(t, err, "an answer that came stands")
	assert.Equal(t, "answer", reply)
}

func TestDecode_theErrorOfAllRunsSaysIfOneMayHaveRun(t *testing.T) {
	refused := &failure.DialError{Err: syscall.ECONNREFUSED}
	for _, errs := range [][]error{{refused, io.EOF}, {io.EOF, refused}, {refused, refused}} {
		runs := make([]*run, len(errs))
		for i, err := range errs {
			runs[i] = &run{groups: []*script.Group{{}}, err: err}
		}
		failed, err := decode("shard-0", runs)
		assert.True(t, failed)
		assert.Equal(t, !slices.Contains(errs, io.EOF), errors.Is(err, ports.ErrNotRun), err)
	}
}

func TestRecovering_aPanicOfANodesClientIsAnError(t *testing.T) {
	events := &batch.Events{}
	var reported []string
	events.OnPanic(func(shard string, p *failure.PanicError) {
		reported = append(reported, fmt.Sprint(shard, ": ", p.Reason))
	})
	hook := recovering{"node a:1", events}
	one := hook.ProcessHook(func(context.Context, redis.Cmder) error { panic("out of order") })
	many := hook.ProcessPipelineHook(func(context.Context, []redis.Cmder) error { panic("out of order") })
	for _, err := range []error{one(t.Context(), nil), many(t.Context(), nil)} {
		assert.Equal(t, failure.Panic, failure.Classify(err).Kind)
	}
	assert.Equal(t, []string{"node a:1: out of order", "node a:1: out of order"}, reported)
}
