//go:build faults

package faults

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
)

// keyFaults are keys of ours that hold something else.
func keyFaults() []fault {
	victim := "velocity:{" + string(bucketKey(hot, client(0))) + "}"
	return []fault{
		{
			kind: "a key of another type", fleet: direct(),
			// In one step: a bucket that begins anew between two would be lost, too.
			begin:   func(t *testing.T, f *fleet) { onAll(t, f, "set", victim, "not a hash") },
			end:     func(t *testing.T, f *fleet) { onAll(t, f, "del", victim) },
			answers: byRedis, forgets: once,
		},
		{
			kind: "a bucket that cannot be read", fleet: direct(),
			begin: func(t *testing.T, f *fleet) {
				onAll(t, f, "hset", victim, "b:burst", "half a bucket")
			},
			end:     func(t *testing.T, f *fleet) { onAll(t, f, "del", victim) },
			answers: byRedis, forgets: once,
		},
	}
}

// onAll sends a command to every server.
func onAll(t testing.TB, f *fleet, args ...any) {
	t.Helper()
	for _, s := range f.servers {
		require.NoError(t, admin(t, s).Do(t.Context(), args...).Err(), args)
	}
}

// topologyFaults are failovers and moves.
func topologyFaults() []fault {
	cluster := fleetConfig{topology: redisstore.TopologyCluster}
	sentinel := fleetConfig{topology: redisstore.TopologySentinel}
	return []fault{
		{
			kind: "cluster, planned failover", fleet: cluster, answers: byEither,
			begin: func(_ *testing.T, f *fleet) { f.cluster.Failover(f.cluster.Owner(ownSlot(f))) },
			end:   nothing,
		},
		{
			kind: "cluster, primary killed", fleet: cluster, answers: byEither, forgets: once,
			begin: func(_ *testing.T, f *fleet) {
				primary := f.cluster.Owner(ownSlot(f))
				f.successor = f.cluster.Replica(primary)
				primary.Kill()
			},
			end: func(_ *testing.T, f *fleet) { f.cluster.AwaitPrimary(f.successor) },
		},
		{
			kind: "cluster, slots move", fleet: cluster, answers: byRedis, lasts: 2 * time.Second,
			begin: func(_ *testing.T, f *fleet) {
				slot := ownSlot(f)
				home := f.cluster.Owner(slot)
				away := f.cluster.Owner((slot + 16384/2) % 16384)
				for range 3 {
					f.cluster.OpenSlot(slot, away)
					time.Sleep(50 * time.Millisecond) // keys are asked for at both
					f.cluster.MoveKeys(slot, home, away)
					f.cluster.CloseSlot(slot, away)
					f.cluster.AwaitWhole()
					home, away = away, home
				}
			},
			end: nothing,
		},
		{
			kind: "cluster, a primary and its replica stopped", fleet: cluster, answers: byEither,
			begin: func(_ *testing.T, f *fleet) {
				primary := f.cluster.Owner(ownSlot(f))
				f.stopped = []*redistest.Server{f.cluster.Replica(primary), primary}
				for _, s := range f.stopped {
					s.Pause()
				}
			},
			end: func(t *testing.T, f *fleet) {
				for _, s := range f.stopped {
					s.Resume()
				}
				awaitOK(t, func() error {
					return f.cluster.Client(f.stopped[1]).Set(t.Context(), keyAt(f, f.stopped[1]), "x", time.Second).Err()
				})
			},
		},
		{
			kind: "sentinel, planned failover", fleet: sentinel, answers: byEither, forgets: split, lasts: 2 * time.Second,
			begin: sentinelFailover,
			end:   nothing,
		},
		{
			kind: "sentinel, primary killed", fleet: sentinel, answers: byEither, forgets: once,
			begin: func(_ *testing.T, f *fleet) {
				primary := f.sentinel.Primary()
				f.successor = f.sentinel.Other(primary)
				primary.Kill()
			},
			end: func(t *testing.T, f *fleet) {
				awaitOK(t, func() error {
					return f.sentinel.Client(f.successor).Set(t.Context(), "writable", "yes", time.Second).Err()
				})
			},
		},
		{
			kind: "sentinels gone, then the primary", fleet: sentinel, answers: byEither,
			begin: func(_ *testing.T, f *fleet) {
				for _, w := range f.sentinel.Watchers {
					w.Pause()
				}
				f.sentinel.Servers[0].Pause()
			},
			end: func(t *testing.T, f *fleet) {
				f.sentinel.Servers[0].Resume()
				require.NoError(t, f.sentinel.Client(f.sentinel.Servers[0]).Ping(t.Context()).Err())
				for _, w := range f.sentinel.Watchers {
					w.Resume()
				}
			},
		},
	}
}

// sentinelFailover has Sentinel replace a primary that lives.
func sentinelFailover(t *testing.T, f *fleet) {
	old := f.sentinel.Primary()
	began := time.Now()
	f.sentinel.Failover()
	require.Eventually(t, func() bool {
		info, _ := f.sentinel.Client(old).Info(t.Context(), "replication").Result() // it ends connections meanwhile
		return strings.Contains(info, "role:slave")
	}, patience, 5*time.Millisecond)
	f.split = time.Since(began)
}

// ownSlot is the slot of the first client.
func ownSlot(f *fleet) int { return f.cluster.Slot("{" + string(bucketKey(hot, client(0))) + "}") }

// keyAt is a key that a server owned, which may be down.
func keyAt(f *fleet, s *redistest.Server) string {
	for i := 0; ; i++ {
		key := fmt.Sprintf("writable-%d", i)
		if f.cluster.Owner(f.cluster.Slot(key)) == s {
			return key
		}
	}
}

func bucketKey(policy, client string) domain.BucketKey {
	return domain.NewBucketKey(policy, domain.KeySource{}, client)
}
