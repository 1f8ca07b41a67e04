package ports

import (
	"context"
	"errors"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
)

// Overrides holds what operators set for single clients at run time. An override at run time wins over everything that the policy
// file says of its client: its overrides, its exempt and its block. Implementations are safe for concurrent use.
//
// Every method returns an error that wraps domain.ErrInvalidRequest (as a *domain.FieldError that names the field) or
// ErrUnknownPolicy if the client or the override is wrong, and an error of [BucketStore] if the store fails; then a change may have
// been made, and may be sent again. SetOverride and EndOverride return the Key of the client beside an error, too, if it may be a secret:
// as logs may show it.
type Overrides interface {
	// Override returns the override of a client. The error wraps ErrNoOverride if it has none.
	Override(ctx context.Context, id ClientID) (Override, error)
	// SetOverride puts an override in force, in this process at once, and in the others within a second. It returns what was in
	// force before, or nil, and the new override with its SetAt. The error wraps ErrOverridesFull if it does not fit.
	SetOverride(ctx context.Context, id ClientID, o Override) (before *Override, after Override, err error)
	// EndOverride ends the override of a client, and returns what was in force before. The error wraps ErrNoOverride if the client
	// has none.
	EndOverride(ctx context.Context, id ClientID) (before Override, err error)
	// ListOverrides returns at most limit overrides under one policy, by their clients' keys in ascending order, from the first one
	// after the cursor. The first page has the cursor "". next is the cursor of the next page, or "".
	ListOverrides(ctx context.Context, policyName, after string, limit int) (page []Override, next string, err error)
	// OverridesStatus describes what this process knows. It asks no store.
	OverridesStatus() OverridesStatus
	// Overridden returns the policies and shared limits that have overrides, sorted by name, also those that are no longer in the policy
	// file. Those whose overrides have expired may be among them. It asks no store.
	Overridden() []string
}

// Override gives one client other limits, or none, or blocks it.
type Override struct {
	// Key is the value of the client's key, as ClientID has it. SetOverride ignores it.
	Key string
	// Source is that of ClientID: "ip" for a client whose requests have no key, else empty, which means the policy's key.
	// SetOverride ignores it.
	Source string
	// Limits replace what they say of the policy's limits of the same names; what a Spec leaves out stays, as in a policy file.
	// There is at least one, unless the client is Exempt or Blocked.
	Limits []limitspec.Spec
	// Exempt clients are never limited; Block: the client never passes. At most one is set, and then there are no Limits.
	Exempt, Block bool
	// ExpiresAt is when the override ends. The zero time means never.
	ExpiresAt time.Time
	// Note says why, for people.
	Note string
	// SetAt is when the override was set, by the store's clock. SetOverride ignores it.
	SetAt time.Time
	// Unfit says which parts do not fit the policy as it is now, and are ignored; nil if all fit. SetOverride refuses such parts, but
	// the policy may change later.
	Unfit error
}

// OverridesStatus says what a process knows of the overrides.
type OverridesStatus struct {
	// Count is the number of overrides in force here.
	Count int
	// Known says that the process has seen the store's overrides at least once.
	Known bool
	// Behind is the time since this process last knew that it has seen every change; 0 for a store in this process.
	Behind time.Duration
	// Local says that the overrides are this process's own, and end with it. It never changes.
	Local bool
}

var (
	// ErrNoOverride means that the client has no override at run time.
	ErrNoOverride = errors.New("no override")
	// ErrOverridesFull means that there are too many overrides, or that they are too large together.
	ErrOverridesFull = errors.New("no space for another override")
)
