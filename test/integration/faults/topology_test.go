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
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// keyFaults are keys of Velocity that hold a foreign value.
func keyFaults() []fault {
	victim := "velocity:{" + string(bucketKey(hot, client(0))) + "}"
	return []fault{
		{
			kind: "a key of another type", fleet: direct(),
			// One command: with a DEL before it, a bucket written in between would be lost, too.
			begin:   func(t *testing.T, f *fleet) { onAll(t, f, "set", victim, "not a hash") },
			end:     func(t *testing.T, f *fleet) { onAll(t, f, "del", victim) },
			answers: byRedis, dataLoss: once,
		},
		{
			kind: "an unreadable bucket", fleet: direct(),
			begin: func(t *testing.T, f *fleet) {
				onAll(t, f, "hset", victim, "b:burst", "half a bucket")
			},
			end:     func(t *testing.T, f *fleet) { onAll(t, f, "del", victim) },
			answers: byRedis, dataLoss: once,
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

// topologyFaults are failovers, and slots that move.
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
			kind: "cluster, primary killed", fleet: cluster, answers: byEither, dataLoss: once,
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
					time.Sleep(50 * time.Millisecond) // requests are redirected meanwhile
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
			kind: "sentinel, planned failover", fleet: sentinel, answers: byEither, dataLoss: split, lasts: 2 * time.Second,
			begin: sentinelFailover,
			end:   nothing,
		},
		{
			kind: "sentinel, primary killed", fleet: sentinel, answers: byEither, dataLoss: once,
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
			kind: "sentinels stopped, then the primary", fleet: sentinel, answers: byEither,
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

// sentinelFailover makes Sentinel replace a running primary.
func sentinelFailover(t *testing.T, f *fleet) {
	old := f.sentinel.Primary()
	began := time.Now()
	f.sentinel.Failover()
	require.Eventually(t, func() bool {
		info, _ := f.sentinel.Client(old).Info(t.Context(), "replication").Result() // it may close the connection
		return strings.Contains(info, "role:slave")
	}, waitTimeout, 5*time.Millisecond)
	f.split = time.Since(began)
}

// ownSlot returns the slot of the first client.
func ownSlot(f *fleet) int { return f.cluster.Slot("{" + string(bucketKey(hot, client(0))) + "}") }

// keyAt returns a key of the slots of a server. The server may be down.
func keyAt(f *fleet, s *redistest.Server) string {
	for i := 0; ; i++ {
		key := fmt.Sprintf("writable-%d", i)
		if f.cluster.Owner(f.cluster.Slot(key)) == s {
			return key
		}
	}
}

func bucketKey(policy, client string) clientkey.BucketKey {
	return clientkey.NewBucketKey(policy, clientkey.Source{}, client)
}
