package redisstore

import (
	"context"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// send carries out a batch in a cluster: one pipeline with a run of the script for each key. The groups of one key
// ride in one run: they stay in order whatever becomes of other runs, and since all keys of a run are one, it has
// one slot, which a node either serves, whole, or redirects.
//
// It returns an error only if nothing can be said of any group. Else each has its own: of two nodes one may be down.
func (c *cluster) send(ctx context.Context, name string, groups []*group) error {
	if err := c.learn(ctx); err != nil {
		return fmt.Errorf("%w: %s, %s: %w", ports.ErrUnavailable, name, notRun, err)
	}
	b := clusterBatches.Get().(*clusterBatch)
	defer b.putBack()
	b.sort(groups)
	c.pipeline(ctx, b.runs, "evalsha", &c.script.sha)
	for _, r := range b.runs {
		if r.err != nil && scriptUnknown(r.err) {
			b.unknown = append(b.unknown, r)
		}
	}
	if len(b.unknown) > 0 {
		c.pipeline(ctx, b.unknown, "eval", &c.script.source)
	}
	return c.settle(name, b.runs)
}

// run is one run of the script: the groups of one key, and what became of them.
type run struct {
	groups []*group
	reply  any
	err    error
}

// clusterBatch is the memory of one batch, used again by later ones.
type clusterBatch struct {
	runs    []*run // in the order of their first groups
	byKey   map[domain.BucketKey]*run
	unknown []*run // whose node did not have the script
}

var clusterBatches = sync.Pool{New: func() any { return &clusterBatch{byKey: make(map[domain.BucketKey]*run)} }}

func (b *clusterBatch) sort(groups []*group) {
	for _, g := range groups {
		r := b.byKey[g.req.Key]
		if r == nil {
			r = b.add()
			b.byKey[g.req.Key] = r
		}
		r.groups = append(r.groups, g)
	}
}

// add appends an empty run, one that was there before if possible.
func (b *clusterBatch) add() *run {
	if n := len(b.runs); n < cap(b.runs) {
		b.runs = b.runs[:n+1]
		if b.runs[n] != nil {
			return b.runs[n]
		}
		b.runs = b.runs[:n]
	}
	r := &run{}
	b.runs = append(b.runs, r)
	return r
}

func (b *clusterBatch) putBack() {
	for _, r := range b.runs {
		clear(r.groups)
		*r = run{groups: r.groups[:0]}
	}
	clear(b.byKey)
	clear(b.unknown)
	b.runs, b.unknown = b.runs[:0], b.unknown[:0]
	clusterBatches.Put(b)
}

// pipeline sends the runs at once and waits for the answers.
func (c *cluster) pipeline(ctx context.Context, runs []*run, name string, script *string) {
	pipe := c.client.Pipeline()
	cmds := make([]onceCmd, len(runs))
	for i, r := range runs {
		memory := commands.Get().(*command)
		defer memory.putBack()
		cmds[i].Cmd = redis.NewCmd(ctx, memory.encode(name, script, r.groups)...)
		_ = pipe.Process(ctx, &cmds[i]) // it is queued: nothing can fail yet
	}
	_, _ = pipe.Exec(ctx) // the first error of the commands, each of which has its own
	for i, r := range runs {
		r.reply, r.err = cmds[i].outcome()
	}
}

// settle decodes the replies into the groups.
func (c *cluster) settle(name string, runs []*run) error {
	var first error
	failed := 0
	for _, r := range runs {
		err := r.err
		if err != nil {
			err = fmt.Errorf("%w: %s, %s: %w", ports.ErrUnavailable, name, classify(err).ran, err)
		} else {
			err = decodeReply(r.reply, r.groups)
		}
		if err == nil {
			continue
		}
		failed++
		if first == nil {
			first = err
		}
		for _, g := range r.groups {
			fail(&g.result, err)
		}
	}
	if failed == 0 {
		return nil
	}
	c.refresh()
	if failed == len(runs) {
		return first
	}
	return nil
}

// onceCmd is a command that go-redis sends no second time, but for redirects: a cluster's client knows no limit of
// retries, and would run a script again whose answer was lost.
type onceCmd struct {
	*redis.Cmd
	refused error // why the last attempt did nothing
}

// NoRetry implements redis.Cmder.
func (*onceCmd) NoRetry() bool { return true }

// SetErr implements redis.Cmder. Of several attempts the last one counts, but when a whole pipeline fails, go-redis
// sets the error of those commands alone that have none: a redirect would be left standing for a lost answer of the
// node that it led to, and pass for a refusal. So an attempt that did nothing leaves no error there.
func (c *onceCmd) SetErr(err error) {
	c.refused = nil
	if err != nil && classify(err).ran == notRun {
		c.refused, err = err, nil
	}
	c.Cmd.SetErr(err)
}

// outcome returns the answer, or why there is none. An answer that came stands, though the time was up before others
// came, of which go-redis tells all commands without an error.
func (c *onceCmd) outcome() (any, error) {
	reply, err := c.Result()
	if reply == nil && err == nil {
		err = c.refused
	}
	return reply, err
}

// String is what a cluster's client hashes to find the key's slot.
func (k *keyArgument) String() string { return string(k.text) }
