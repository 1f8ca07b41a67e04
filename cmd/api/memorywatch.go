package main

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
)

// memoryInterval is the least time between two warnings, because there may be many evictions a second.
const memoryInterval = 10 * time.Second

// memoryStores returns the stores in this process's memory by their names in metrics and logs.
func memoryStores(s *store, local localStore) map[string]*memstore.Store {
	stores := map[string]*memstore.Store{"local": local.Store}
	if s.Memory != nil {
		stores["memory"] = s.Memory
	}
	return stores
}

// watchMemory warns if buckets were evicted from memory before they were full, which gives tokens to their clients.
func (s *service) watchMemory(ctx context.Context) {
	stores := memoryStores(s.Store, s.Local)
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
