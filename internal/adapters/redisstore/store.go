package redisstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Store keeps buckets in the shards of a [RedisShardManager]. Make it with [New]; safe for concurrent use.
type Store struct {
	manager *RedisShardManager
	script  *script
	budget  time.Duration
}

var (
	_ ports.BucketStore   = (*Store)(nil)
	_ ports.HealthChecker = (*Store)(nil)
)

// New makes a store. It does not connect: servers that are down when a process starts must not keep it from
// starting. The error is one of the configuration, and reports all that is wrong with it.
func New(cfg Config) (*Store, error) {
	manager, err := newShardManager(cfg)
	if err != nil {
		return nil, err
	}
	return &Store{manager: manager, script: newScript(takeSource), budget: cfg.TakeTimeout}, nil
}

// Manager returns the shards of the store; Close closes them.
func (s *Store) Manager() *RedisShardManager { return s.manager }

// Close closes the connections. Calls that are under way fail.
func (s *Store) Close() error { return s.manager.Close() }

// TakeMany implements ports.BucketStore. Each shard is asked concurrently, with runs of at most 128 groups one
// after the other, so that equal keys keep their order. The budget is one for the whole call.
func (s *Store) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	s.dispatch(ctx, s.plan(reqs, results), reqs, results)
}

// plan refuses the requests that cannot be carried out, and sorts the others by shard.
func (s *Store) plan(reqs []ports.TakeRequest, results []ports.TakeResult) []*lane {
	list := s.manager.list.Load()
	slots := make(map[*shard][]int, 1)
	for i := range reqs {
		if err := reqs[i].Check(); err != nil {
			fail(&results[i], err)
			continue
		}
		owner := list.owner(string(reqs[i].Key))
		slots[owner] = append(slots[owner], i)
	}
	lanes := make([]*lane, 0, len(slots))
	for owner, mine := range slots {
		lanes = append(lanes, s.lane(owner, reqs, mine))
	}
	return lanes
}

// lane makes the runs for one shard.
func (s *Store) lane(owner *shard, reqs []ports.TakeRequest, slots []int) *lane {
	l := &lane{shard: owner}
	for len(slots) > 0 {
		n := min(len(slots), maxGroups)
		l.runs = append(l.runs, &run{shard: owner, slots: slots[:n], args: s.script.encode(reqs, slots[:n])})
		slots = slots[n:]
	}
	return l
}

// lane is the part of a call that goes to one shard.
type lane struct {
	shard *shard
	runs  []*run
}

// run is one run of the script. Its args are its own: a goroutine that is left behind, waiting for a server, touches
// nothing that belongs to the caller.
type run struct {
	shard   *shard
	slots   []int
	args    []any
	settled bool // by dispatch alone
}

type answer struct {
	run   *run
	reply any
	err   error
}

// dispatch drives the lanes and fills their slots. It returns when all have answered, when the budget is spent or
// when ctx ends, whichever is first.
func (s *Store) dispatch(ctx context.Context, lanes []*lane, reqs []ports.TakeRequest, results []ports.TakeResult) {
	bounded, cancel := context.WithTimeout(ctx, s.budget)
	defer cancel()
	pending := 0
	for _, l := range lanes {
		pending += len(l.runs)
	}
	answers := make(chan answer, pending) // so large that nobody waits to send, even when nobody receives any more
	for _, l := range lanes {
		go s.drive(bounded, l, answers)
	}
	for ; pending > 0; pending-- {
		select {
		case a := <-answers:
			a.run.settled = true
			s.settle(ctx, a, reqs, results)
		case <-bounded.Done():
			s.abandon(ctx, lanes, results)
			return
		}
	}
}

// drive sends the runs of one lane in order. After a failure it sends no more: the shard is in trouble.
func (s *Store) drive(ctx context.Context, l *lane, answers chan<- answer) {
	var reply any
	err := ctx.Err()
	for _, r := range l.runs {
		if err == nil {
			reply, err = s.script.run(ctx, l.shard.client, r.args)
		}
		answers <- answer{run: r, reply: reply, err: err}
	}
}

func (s *Store) settle(ctx context.Context, a answer, reqs []ports.TakeRequest, results []ports.TakeResult) {
	err := a.err
	if err == nil {
		err = decodeReply(a.reply, reqs, a.run.slots, results)
	} else {
		err = withContext(ctx, unavailable(a.run.shard, err))
	}
	if err != nil {
		for _, slot := range a.run.slots {
			fail(&results[slot], err)
		}
	}
}

// abandon fills the slots of the runs that have not answered.
func (s *Store) abandon(ctx context.Context, lanes []*lane, results []ports.TakeResult) {
	for _, l := range lanes {
		err := withContext(ctx, fmt.Errorf("%w: %s, %s: no answer within %v",
			ports.ErrUnavailable, l.shard.Name, mayHaveRun, s.budget))
		for _, r := range l.runs {
			if r.settled {
				continue
			}
			for _, slot := range r.slots {
				fail(&results[slot], err)
			}
		}
	}
}

// withContext adds the caller's context's error, if it has ended. The clock is asked, too: a socket's deadline can
// wake us a moment before the context's timer does.
func withContext(ctx context.Context, err error) error {
	cause := ctx.Err()
	if deadline, ok := ctx.Deadline(); ok && cause == nil && !time.Now().Before(deadline) {
		cause = context.DeadlineExceeded
	}
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// fail makes a slot an error, keeping its memory.
func fail(slot *ports.TakeResult, err error) {
	*slot = ports.TakeResult{Err: err, Store: domain.StoreRedis, Buckets: slot.Buckets[:0]}
}
