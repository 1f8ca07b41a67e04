package ports

import (
	"context"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
)

// OverrideStore keeps the overrides of all processes that share it, and follows what the others change. It knows no policies.
// Implementations are safe for concurrent use.
type OverrideStore interface {
	// Overrides returns this process's copy. It is the same one at every call.
	Overrides() *override.Table
	// ChangeOverride stores what a client has from now on, or that its override ends if value is nil, and merges it into the copy.
	// before is the newest entry until then, or the zero Entry; after is the new one, whose Version is higher. There is nothing to
	// end if before is not in force: then the error wraps ErrNoOverride. It wraps ErrOverridesFull if the override does not fit, and
	// ErrUnavailable if no server answers; after that the change may have been made, and may be sent again.
	ChangeOverride(ctx context.Context, key clientkey.BucketKey, value *override.Value) (before, after override.Entry, err error)
	// FollowOverrides keeps the copy equal to the store until ctx ends, and removes what has expired. Call it once.
	FollowOverrides(ctx context.Context)
	// OverridesStatus describes the copy. It asks no server.
	OverridesStatus() OverridesStatus
}

// OverrideBounds say how much a store keeps. What exceeds them is refused; nothing is removed for it.
type OverrideBounds struct {
	// Live is the most overrides, of all policies. Entries includes those whose end is remembered.
	Live, Entries int
	// Bytes is the most that the entries take as they are stored.
	Bytes int
}

// DefaultOverrideBounds are the bounds of every store.
var DefaultOverrideBounds = OverrideBounds{Live: 100_000, Entries: 200_000, Bytes: 64 << 20}

// Exceeded reports whether an entry in the place of another one, or of the zero Entry, would exceed the bounds of a copy.
func (b OverrideBounds) Exceeded(s override.Stats, before, after *override.Entry) bool {
	size := func(e *override.Entry) (live, entries, bytes int) {
		if e.Key == "" {
			return 0, 0, 0
		}
		if !e.Ended {
			live = 1
		}
		return live, 1, len(e.Key) + len(e.Text())
	}
	live, entries, bytes := size(after)
	oldLive, oldEntries, oldBytes := size(before)
	return live > oldLive && s.Live >= b.Live || entries > oldEntries && s.Entries >= b.Entries || bytes > oldBytes && s.Bytes+bytes-oldBytes > b.Bytes
}
