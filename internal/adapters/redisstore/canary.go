package redisstore

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

//go:embed canary.lua
var canarySource string

// ErrPermissions says that the user whom the settings name may not do all that is needed.
var ErrPermissions = errors.New("the ACL user lacks permissions")

// checkPermissions returns an error that wraps ErrPermissions and names the commands that the user lacks, or another
// if that cannot be found out. Redis 7.0 itself does not name a command that a script may not run.
func checkPermissions(ctx context.Context, client processor, key domain.BucketKey) error {
	var k keyArgument
	k.set(key)
	cmd := redis.NewStringSliceCmd(ctx, "eval", canarySource, 1, string(k.text))
	_ = client.Process(ctx, cmd) // Result returns the same error
	lacking, err := cmd.Result()
	switch {
	case err != nil && classify(err).kind == ports.FailureNoPerm:
		return fmt.Errorf("%w: %w", ErrPermissions, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ports.ErrUnavailable, err)
	case len(lacking) > 0:
		return fmt.Errorf("%w: it may not run %s on keys velocity:*", ErrPermissions, strings.Join(lacking, ", "))
	}
	return nil
}

// CheckPermissions asks every shard whether its user may run all that decisions, and what operators do with buckets,
// need. It decides nothing. An Err that wraps ErrPermissions names what the user lacks.
func (s *Store) CheckPermissions(ctx context.Context) []ports.ShardHealth {
	probes := s.manager.topology().probes(ctx)
	health := make([]ports.ShardHealth, len(probes))
	var wg sync.WaitGroup
	for i, p := range probes {
		health[i] = ports.ShardHealth{Name: p.name, Err: p.err}
		if p.err == nil {
			wg.Go(func() { health[i].Err = p.batcher.guard.permissions(ctx) })
		}
	}
	wg.Wait()
	return health
}
