package cluster

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// pipeline carries out a batch: one pipeline with a run of the script for each key. All groups of a key are in one run, so
// they stay in order whatever happens to other runs. All keys of a run are equal, so it has one slot, which a node either
// serves or redirects as a whole.
type pipeline struct {
	client *redis.ClusterClient
	script *script.Script
	calls  callOptions
}

// decide decides the groups. Of two nodes one may be down, so each group has its own error, and decide returns one only if
// every run failed, and none because its slot is moving, which says nothing of the others. failed reports whether any did.
func (p pipeline) decide(ctx context.Context, name string, groups []*script.Group, now domain.Instant) (failed bool, err error) {
	m := memories.Get().(*memory)
	defer m.release()
	m.sort(groups)
	p.run(ctx, m.runs, false, now)
	for _, r := range m.runs {
		if script.Unknown(r.err) {
			m.unknown = append(m.unknown, r)
		}
	}
	if len(m.unknown) > 0 {
		p.run(ctx, m.unknown, true, now)
	}
	return decode(name, m.runs)
}

// run sends the runs at once and waits for the replies.
func (p pipeline) run(ctx context.Context, runs []*run, withSource bool, now domain.Instant) {
	pipe := p.client.Pipeline()
	cmds, encoded := make([]onceCmd, len(runs)), make([]*script.Command, len(runs))
	for i, r := range runs {
		encoded[i] = script.NewCommand()
		cmds[i].Cmd = redis.NewCmd(ctx, encoded[i].Encode(p.script, withSource, r.groups, now)...)
		_ = pipe.Process(ctx, &cmds[i]) // queues it: nothing can fail yet
	}
	_, err := within(ctx, p.calls, func() (struct{}, error) {
		_, _ = pipe.Exec(ctx) // the first error of the commands, each of which has its own
		return struct{}{}, nil
	})
	if err != nil {
		if ctx.Err() != nil {
			err = script.ErrNoReply
		}
		// The commands and their memory belong to the pipeline, which may still be under way.
		for _, r := range runs {
			r.reply, r.err = nil, err
		}
		return
	}
	for i, r := range runs {
		r.reply, r.err = cmds[i].outcome()
		encoded[i].Release()
	}
}

// decode decodes the replies into the groups. Its results are those of pipeline.decide. An error of all runs is the first one of a run
// that may have been carried out, if there is one.
func decode(name string, runs []*run) (failed bool, err error) {
	failures, moving, mayHaveRun := 0, false, false
	for _, r := range runs {
		if r.err != nil {
			r.err = script.Unavailable(name, r.err)
		} else {
			r.err = script.DecodeReply(r.reply, r.groups)
		}
		if r.err == nil {
			continue
		}
		failures++
		moving = moving || script.Moving(r.err)
		if ran := !errors.Is(r.err, ports.ErrNotRun); err == nil || ran && !mayHaveRun {
			err, mayHaveRun = r.err, ran
		}
		for _, g := range r.groups {
			batch.Fail(&g.Result, r.err)
		}
	}
	if failures < len(runs) || moving {
		return failures > 0, nil
	}
	return true, err
}

// run is one run of the script: the groups of one key, and the reply.
type run struct {
	groups []*script.Group
	reply  any
	err    error
}

// memory is the memory of one batch. It is reused.
type memory struct {
	all     [script.MaxGroups]run
	runs    []*run // into all, in the order of their first groups
	byKey   map[clientkey.BucketKey]*run
	unknown []*run // whose node did not have the script
}

var memories = sync.Pool{New: func() any { return &memory{byKey: make(map[clientkey.BucketKey]*run)} }}

func (m *memory) sort(groups []*script.Group) {
	for _, g := range groups {
		r := m.byKey[g.Request.Key]
		if r == nil {
			r = &m.all[len(m.runs)]
			m.runs = append(m.runs, r)
			m.byKey[g.Request.Key] = r
		}
		r.groups = append(r.groups, g)
	}
}

func (m *memory) release() {
	for _, r := range m.runs {
		clear(r.groups)
		*r = run{groups: r.groups[:0]}
	}
	clear(m.byKey)
	clear(m.unknown)
	m.runs, m.unknown = m.runs[:0], m.unknown[:0]
	memories.Put(m)
}

// onceCmd is a command that go-redis does not send again, except after a redirect. A cluster's client has no option against
// retries, and would run a script again whose reply was lost.
type onceCmd struct {
	*redis.Cmd
	refused error // why the last attempt did nothing
}

// NoRetry implements redis.Cmder.
func (*onceCmd) NoRetry() bool { return true }

// SetErr implements redis.Cmder. Of several attempts the last one counts. But when a whole pipeline fails, go-redis sets the
// error only of those commands that have none: the error of a redirect would hide that the node that it led to lost the
// reply, and pass for a refusal. So an attempt that did nothing leaves no error in the command.
func (c *onceCmd) SetErr(err error) {
	c.refused = nil
	if err != nil && errors.Is(failure.Classify(err).Effect, ports.ErrNotRun) {
		c.refused, err = err, nil
	}
	c.Cmd.SetErr(err)
}

// outcome returns the reply, or why there is none. A reply that came stands even if the deadline passed before the others
// came, which go-redis reports for all commands without an error.
func (c *onceCmd) outcome() (any, error) {
	reply, err := c.Result()
	if reply == nil && err == nil {
		err = c.refused
	}
	return reply, err
}
