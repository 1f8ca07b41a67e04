package redisstore

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// topology finds the server that owns a bucket key.
type topology interface {
	// BatcherFor returns the batcher of the owner. It does not wait for a server.
	BatcherFor(key string) *batch.Batcher
	// ClientFor returns the client of the owner, as far as that is known.
	ClientFor(key string) *redis.Client
	// Targets returns what to ask each server to learn whether it can decide.
	Targets(ctx context.Context) []batch.Target
	// Stats returns the statistics of the servers, without asking them.
	Stats() []ports.ShardStats
	// Stop ends probes and what else runs in the background. Calls still reach the servers.
	Stop()
	// Close closes the clients, and waits for what ran in the background. It is called after Stop.
	Close() error
}

// shardList is a list of servers that do not know each other.
type shardList struct {
	clients  []*redis.Client
	targets  []batch.Target // in the order of clients
	seeds    []uint64       // the hashes of the shards' identities, in the same order
	strategy Strategy
	borrowed bool // the clients are the caller's, who closes them
}

var _ topology = (*shardList)(nil)

func (l *shardList) add(cfg *Config, s Shard, client *redis.Client, take *script.Script, events *batch.Events) {
	server := batch.Server{
		Name: s.Name, Client: client,
		Send: func(ctx context.Context, groups []*script.Group, now domain.Instant) error {
			err := take.Decide(ctx, client, s.Name, groups, now)
			if err != nil && l.borrowed && ctx.Err() != nil {
				err = script.Unavailable(s.Name, script.ErrNoReply)
			}
			return err
		},
		ProbeKey:   func() (clientkey.BucketKey, error) { return batch.ProbeKey, nil },
		MayOverrun: l.borrowed,
		Separate:   cfg.separate,
	}
	l.clients = append(l.clients, client)
	l.targets = append(l.targets, batch.Target{
		Name: s.Name, Key: batch.ProbeKey, Batcher: batch.New(server, cfg.TakeTimeout, events),
	})
	l.seeds = append(l.seeds, hash(s.Identity))
}

// BatcherFor implements topology.
func (l *shardList) BatcherFor(key string) *batch.Batcher {
	return l.targets[l.strategy.route(key, l.seeds)].Batcher
}

// ClientFor implements topology.
func (l *shardList) ClientFor(key string) *redis.Client {
	return l.clients[l.strategy.route(key, l.seeds)]
}

// Targets implements topology.
func (l *shardList) Targets(context.Context) []batch.Target { return l.targets }

// Stats implements topology.
func (l *shardList) Stats() []ports.ShardStats {
	out := make([]ports.ShardStats, len(l.targets))
	for i, t := range l.targets {
		out[i] = t.Batcher.Stats(t.Name)
	}
	return out
}

// Stop implements topology.
func (l *shardList) Stop() {
	for _, t := range l.targets {
		t.Batcher.Stop()
	}
}

// Close implements topology.
func (l *shardList) Close() error {
	var errs []error
	for _, c := range l.clients {
		if !l.borrowed {
			errs = append(errs, c.Close())
		}
	}
	for _, t := range l.targets {
		t.Batcher.Wait()
	}
	return errors.Join(errs...)
}
