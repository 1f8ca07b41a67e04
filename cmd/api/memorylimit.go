package main

import (
	"context"
	"errors"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/settings"
)

// limitMemory has Go keep to 90 % of the container's memory limit, or to GOMEMLIMIT if that is set, and lowers the sizes that do
// not fit. The rest of the container's memory is for the kernel, which counts the buffers of connections.
func limitMemory(cfg *settings.Config, log *zap.Logger) {
	container, err := memlimit.FromCgroup()
	if err != nil && !errors.Is(err, memlimit.ErrNoLimit) && !errors.Is(err, memlimit.ErrCgroupsNotSupported) &&
		!errors.Is(err, memlimit.ErrNoCgroup) {
		log.Warn("The container's memory limit cannot be read: set GOMEMLIMIT if there is one", zap.Error(err))
	}
	limit, err := memlimit.Set(memlimit.WithProvider(func() (uint64, error) {
		if container == 0 {
			return 0, memlimit.ErrNoLimit
		}
		return container, nil
	}))
	if err != nil {
		log.Warn("The memory limit is not in force", zap.Error(err))
	}
	if limit == math.MaxInt64 {
		return
	}
	log.Info("Memory limit", zap.Uint64("containerBytes", container), zap.Int64("goBytes", limit))
	for _, f := range cfg.FitMemory(limit) {
		if f.Set {
			log.Warn("A size may not fit the memory limit: lower it, or raise the limit",
				zap.String("size", f.What), zap.Int("set", f.From), zap.Int("fits", f.To))
			continue
		}
		log.Info("A default is lowered to fit the memory limit", zap.String("size", f.What), zap.Int("from", f.From), zap.Int("to", f.To))
	}
}

const (
	pace = time.Second
	// The heap may grow so far beyond what was live at the last garbage collection. gRPC allocates some 8 KiB for a call, and
	// with less the small heap of this service would be collected many times a second.
	headroom, headroomGRPC = 20 << 20, 64 << 20
	// leastPercent bounds the time that collections take in a large heap.
	leastPercent = 15
	// smallHeap is the live heap that is assumed before the first collection.
	smallHeap = 4 << 20
)

// paceCollector has the garbage collector start when the heap has grown by a fixed amount, not when it has doubled: the buckets
// of a million clients are cheap to collect, and need no other 100 MB beside them. It does nothing if GOGC is set.
func paceCollector(ctx context.Context, grpc bool) {
	if os.Getenv("GOGC") != "" {
		return
	}
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for in := 0; ; {
		metrics.Read(live)
		if next := gcPercent(live[0].Value.Uint64(), grpc); next != in {
			debug.SetGCPercent(next)
			in = next
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// gcPercent returns the value of GOGC for a live heap.
func gcPercent(live uint64, grpc bool) int {
	live = max(live, smallHeap)
	if grpc {
		return max(int(headroomGRPC*100/live), leastPercent)
	}
	return min(max(int(headroom*100/live), leastPercent), 100)
}
