// Package policy finds the limits that apply to a request.
//
// A [Set] finds the first policy that matches the request. The policy knows the key that identifies the client, and the
// limits of this client, which an override may change. Everything is compiled once, so that finding allocates nothing.
package policy

import (
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/denial"
)

// DefaultName is the policy that applies when a caller names none.
const DefaultName = "default"

// FailureMode says how requests are decided while the store is unavailable.
type FailureMode string

// The failure modes.
const (
	FailOpen   FailureMode = "open"   // allow
	FailClosed FailureMode = "closed" // deny, with 503
	FailLocal  FailureMode = "local"  // decide with buckets in this process's memory
)

// Valid reports whether m is one of the three modes.
func (m FailureMode) Valid() bool { return m == FailOpen || m == FailClosed || m == FailLocal }

// Mode says whether a denial is enforced. The zero value is ModeEnforce.
type Mode uint8

// The modes.
const (
	ModeEnforce Mode = iota // a denied request is refused
	ModeShadow              // requests are decided, counted and logged, and all pass
)

// ParseMode reads "enforce" or "shadow".
func ParseMode(s string) (Mode, error) {
	switch s {
	case "enforce":
		return ModeEnforce, nil
	case "shadow":
		return ModeShadow, nil
	}
	return 0, invalid("mode", strconv.Quote(s), modeRule)
}

// ParseMaxWait reads the time for which a policy lets requests wait, from 0s to [MaxMaxWait].
func ParseMaxWait(s string) (time.Duration, error) {
	d, err := domain.ParseDuration("max_wait", s)
	for _, wrong := range domain.FieldErrors(err) {
		return 0, invalid("max_wait", wrong.Value, wrong.Reason)
	}
	if d > MaxMaxWait {
		return 0, invalid("max_wait", strconv.Quote(s), maxWaitRule)
	}
	return d, nil
}

var maxWaitRule = "must be from 0s to " + domain.FormatDuration(MaxMaxWait)

const modeRule = "must be enforce or shadow"

// String is the form that [ParseMode] reads.
func (m Mode) String() string {
	if m == ModeShadow {
		return "shadow"
	}
	return "enforce"
}

// MissingKey says what becomes of a request without a value for the policy's key. The zero value is MissingKeyAddress. Limits with
// a key of their own, and shared limits, count such a request by its address whatever the policy says.
type MissingKey uint8

// What becomes of a request without a key.
const (
	MissingKeyAddress MissingKey = iota // it is counted by its client's address
	// MissingKeyRefuse: an error that wraps domain.ErrMissingKey, and nothing is taken, unless the pattern * exempts or blocks every
	// client. In shadow mode it is counted by its client's address.
	MissingKeyRefuse
)

// ParseMissingKey reads "address" or "refuse".
func ParseMissingKey(s string) (MissingKey, error) {
	switch s {
	case "address":
		return MissingKeyAddress, nil
	case "refuse":
		return MissingKeyRefuse, nil
	}
	return 0, invalid("missing_key", strconv.Quote(s), missingKeyRule)
}

const missingKeyRule = "must be address or refuse"

// String is the form that [ParseMissingKey] reads.
func (m MissingKey) String() string {
	if m == MissingKeyRefuse {
		return "refuse"
	}
	return "address"
}

const (
	// MaxLimits is the most limits that one policy can have.
	MaxLimits = 32
	// MaxOverrides is the most overrides, and patterns of each kind, that one policy can have.
	MaxOverrides = 100_000
	// MaxMaxWait is the longest that a policy can let a request wait.
	MaxMaxWait = time.Hour
)

// Policy groups requests by client and holds them against limits. [Policy.Compile] makes it ready for use; from then
// on it must not be changed. Only Name, Limits and OnStoreFailure are required.
type Policy struct {
	// Name is part of every bucket key.
	Name string
	// Match selects the requests to which the policy applies. The zero Match matches every HTTP request.
	Match Match
	// Key identifies the client. Nil: the client's address.
	Key clientkey.Key
	// MissingKey says what becomes of a request that has no value for a source of Key.
	MissingKey MissingKey
	// Cost is the cost of a request that does not name one; see Request.PolicyCost.
	Cost Cost
	// Limits are taken together or not at all.
	Limits []domain.Limit
	// LimitKeys holds, by the limit's name, the keys of limits that do not count by the policy's Key.
	LimitKeys map[string]clientkey.Key
	// Shared holds, by name, those of the Limits that other policies may use, too; see [Policy.Use].
	Shared map[string]*Shared
	// Overrides give some clients other limits. The first whose keys or conditions fit applies.
	Overrides []Override
	// Exempt are patterns of clients that are never limited. The outcome is OutcomeExempt; no bucket changes.
	Exempt []string
	// Block are patterns of clients that never pass. The outcome is OutcomeBlocked. Block wins over Exempt.
	Block []string
	// Mode says whether a denial is enforced.
	Mode Mode
	// OnStoreFailure says how requests are decided while the store is unavailable.
	OnStoreFailure FailureMode
	// MaxWait is how long a request may wait for tokens that are yet to come, instead of being denied. It needs a limit of
	// domain.KindTokenBucket: limits of other kinds lend nothing. At most MaxMaxWait; 0: no request waits.
	MaxWait time.Duration
	// RefundOn are the statuses of an upstream's answer after which the tokens come back.
	RefundOn StatusSet
	// SkipPreflight lets preflights of CORS pass without taking anything, also under MissingKeyRefuse; see [Request.IsPreflight]. The
	// outcome is OutcomeExempt. Clients that are blocked stay so.
	SkipPreflight bool
	// Denied is the answer to a request that a limit denied. Nil: the usual problem.
	Denied *denial.Answer

	compiled *compiled
}

// Override gives other limits to the clients whose key matches one of its patterns, or to the requests that fulfil its conditions:
// exactly one of Keys and When is set. A limit of the override replaces the policy's limit of the same name; the other limits stay. It
// cannot replace a shared limit, or a limit with a key of its own: requests of other clients, which count in the same buckets, would cut
// them.
//
// A pattern is a text in which one * may stand for any text. It is compared with the value of the policy's key in the request, also if
// that is secret; see [clientkey.RawListValue]. If a request has no such value and the client's address replaces it, only the pattern *
// matches. So a client cannot get another client's limits by omitting the key.
//
// A client keeps its buckets when other conditions fit, and they are converted as after a change of the policy. So conditions should
// follow from the key: else one client's requests convert its bucket to and fro, and its level is cut to the lowest capacity.
type Override struct {
	Keys []string
	// When are conditions that must all fit. Under the key global they cannot change a token bucket, in which all requests count.
	When   []Condition
	Limits []domain.Limit
	// Line is where the override starts in the policy file. 0 means that it is from no file.
	Line int
}

// Clients describes whom the override is for, as part of a sentence: "for partner-*" or "where header:x-plan is pro or team".
func (o *Override) Clients() string {
	const most = 3
	if len(o.When) > 0 {
		return "where " + ConditionsText(o.When)
	}
	text := "for " + strings.Join(o.Keys[:min(len(o.Keys), most)], ", ")
	if more := len(o.Keys) - most; more > 0 {
		text += " and " + strconv.Itoa(more) + " more"
	}
	return text
}

// invalid refuses a field of a policy. value is the value found, already safe to show.
func invalid(field, value, reason string) *domain.FieldError {
	return &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: field, Value: value, Reason: reason}
}
