package main

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
)

// memoryInterval is how often evictions are reported. They may be many a second.
const memoryInterval = 10 * time.Second

// watchMemory warns when buckets had to leave memory before they were full: their clients gained tokens by it.
func (s *service) watchMemory(ctx context.Context) {
	stores := map[string]*memstore.Store{"local": s.Local.Store}
	if s.Store.Memory != nil {
		stores["memory"] = s.Store.Memory
	}
	known := make(map[string]uint64, len(stores))
	ticker := time.NewTicker(memoryInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for name, store := range stores {
			if stats := store.Stats(); stats.Evictions > known[name] {
				s.Log.Warn("Memory is full: buckets were evicted; raise VELOCITY_MEMORY_MAX_BUCKETS",
					zap.String("store", name), zap.Int("buckets", stats.Buckets),
					zap.Uint64("evicted", stats.Evictions-known[name]))
				known[name] = stats.Evictions
			}
		}
	}
}
