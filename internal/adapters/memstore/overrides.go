package memstore

import (
	"context"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Overrides keeps overrides in the memory of this process. They end with it. Make it with [NewOverrides].
type Overrides struct {
	table  *override.Table
	bounds ports.OverrideBounds
	now    func() domain.Instant
	mu     sync.Mutex // of changes
}

var _ ports.OverrideStore = (*Overrides)(nil)

// NewOverrides returns an empty store.
func NewOverrides(bounds ports.OverrideBounds) *Overrides {
	return &Overrides{table: override.NewTable(), bounds: bounds, now: func() domain.Instant { return domain.InstantOf(time.Now()) }}
}

// Overrides implements ports.OverrideStore.
func (o *Overrides) Overrides() *override.Table { return o.table }

// ChangeOverride implements ports.OverrideStore.
func (o *Overrides) ChangeOverride(
	_ context.Context, key clientkey.BucketKey, value *override.Value,
) (before, after override.Entry, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	before, _ = o.table.Get(key)
	after = override.Entry{Key: key, Version: max(now, before.Version+1), Ended: value == nil}
	if value != nil {
		after.Value = *value
	} else if before.Key == "" || !before.InForce(now) {
		return before, override.Entry{}, ports.ErrNoOverride
	}
	if o.bounds.Exceeded(o.table.Stats(), &before, &after) {
		return before, override.Entry{}, ports.ErrOverridesFull
	}
	o.table.Merge(after)
	return before, after, nil
}

// sweepOverrides is how often overrides are looked for that have expired.
const sweepOverrides = 10 * time.Second

// FollowOverrides implements ports.OverrideStore.
func (o *Overrides) FollowOverrides(ctx context.Context) {
	ticker := time.NewTicker(sweepOverrides)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			ends, forgotten := o.table.Due(o.now())
			o.table.Merge(ends...)
			o.table.Drop(forgotten...)
		}
	}
}

// OverridesStatus implements ports.OverrideStore.
func (o *Overrides) OverridesStatus() ports.OverridesStatus {
	return ports.OverridesStatus{Count: o.table.InForce(o.now()), Known: true, Local: true}
}
