package velocity

import (
	"cmp"
	"errors"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
)

// Limit is a token bucket, a quota or a concurrency limit. [PerSecond], [PerMinute] and [PerHour] make buckets, [Quota] makes
// quotas, and [Concurrent] concurrency limits. The zero value is refused by [New], and so is a limit with fields of several kinds.
type Limit struct {
	// Name distinguishes the limits of a policy. Empty means the name of the policy, so that several limits need names.
	Name string

	// A bucket holds up to Capacity tokens, and Refill tokens are added in each Per. Both are from 1 to 10^12, and Per is at
	// least a microsecond.
	Capacity, Refill int64
	Per              time.Duration

	// A quota lets Quota tokens, from 1 to 10^12, pass in each Period. Zone and Anchor are as [Limit.In] and [Limit.From] say.
	Quota        int64
	Period       Period
	Zone, Anchor string

	// A concurrency limit lets Concurrent permits, from 1 to a million, be held at once. Lease is how long a permit outlives a
	// process that dies with it, from a second to a day; zero means a minute.
	Concurrent int64
	Lease      time.Duration

	// Cost is what every request takes from this limit. It is at most Capacity or Quota. Zero means what the request costs.
	// A concurrency limit cannot have it: a request holds one permit.
	Cost int64

	by string // the function that made the bucket, which errors name
}

// Period is the time in which a [Quota] counts: a calendar unit below, or a duration from 1s to 876000h, as [Every] returns
// it. The zero value is no period.
type Period string

// The calendar units. They begin at the full minute or hour, at the first instant of a day, on Monday, on the first of
// a month, and on January 1.
const (
	Minute Period = "minute"
	Hour   Period = "hour"
	Day    Period = "day"
	Week   Period = "week"
	Month  Period = "month"
	Year   Period = "year"
)

// Every returns the period of a fixed duration, counted from 1970-01-01 00:00 UTC: Every(24*time.Hour) is Day in UTC.
func Every(d time.Duration) Period { return Period(d.String()) }

// PerSecond returns a limit of n tokens per second with capacity n. Up to 2n can pass in one second: the full bucket, and what is
// refilled meanwhile. docs/policies.md#what-per-day-means shows how to choose a rate and a capacity.
func PerSecond(n int64) Limit {
	return Limit{Capacity: n, Refill: n, Per: time.Second, by: "PerSecond"}
}

// PerMinute returns a limit of n tokens per minute with capacity n. Up to 2n can pass in one minute, see [PerSecond].
func PerMinute(n int64) Limit {
	return Limit{Capacity: n, Refill: n, Per: time.Minute, by: "PerMinute"}
}

// PerHour returns a limit of n tokens per hour with capacity n. Up to 2n can pass in one hour, see [PerSecond]. For n tokens
// in each hour or day, use [Quota].
func PerHour(n int64) Limit { return Limit{Capacity: n, Refill: n, Per: time.Hour, by: "PerHour"} }

// Quota returns a limit of n tokens in each period, by the store's clock. All of them can be spent at once; at the period's
// end they are there again.
func Quota(n int64, p Period) Limit { return Limit{Quota: n, Period: p} }

// Concurrent returns a limit of n permits that are held at once. A request holds one, whatever it costs, from
// [Limiter.Acquire] until [Permit.Release]. Limiters that share Redis count together.
func Concurrent(n int64) Limit { return Limit{Concurrent: n, Lease: limitspec.DefaultLease} }

// WithLease returns the concurrency limit with another lease than a minute: the time after which a permit ends if the process
// that holds it dies, or cannot reach Redis. While it lives, it renews the permit in the background, so that work may take any
// time.
func (l Limit) WithLease(d time.Duration) Limit {
	l.Lease = d
	return l
}

// Burst returns the bucket with another capacity.
func (l Limit) Burst(capacity int64) Limit {
	l.Capacity = capacity
	return l
}

// Named returns the limit with a name.
func (l Limit) Named(name string) Limit {
	l.Name = name
	return l
}

// In returns the quota with its periods in a time zone of the IANA database, such as "Europe/Berlin": a day begins at the
// first instant of its date there. Without it periods are in UTC. Only a Day, Week, Month or Year can have a zone. The database
// is part of this package, so that every process has the same periods.
func (l Limit) In(zone string) Limit {
	l.Zone = zone
	return l
}

// From returns the quota with its periods counted from an anchor, forwards and backwards: a date such as "2026-01-15", or
// an RFC 3339 time. So Quota(n, Month).From("2026-01-15") begins on the 15th of each month.
func (l Limit) From(anchor string) Limit {
	l.Anchor = anchor
	return l
}

// WithCost returns the limit with a cost of its own: every request that costs anything takes that from it. [Limiter.Refund]
// and [Limiter.Charge] do not touch such a limit. So a limit of tokens and one of requests can be in one policy.
func (l Limit) WithCost(n int64) Limit {
	l.Cost = n
	return l
}

// compile returns the limit with this name, as the stores need it.
func (l *Limit) compile(name string) (limit domain.Limit, err error) {
	bucket := l.Capacity != 0 || l.Refill != 0 || l.Per != 0
	quota := l.Quota != 0 || l.Period != "" || l.Zone != "" || l.Anchor != ""
	permits := l.Concurrent != 0 || l.Lease != 0
	switch {
	case bucket && quota || bucket && permits || quota && permits:
		return limit, errors.New("a limit has fields of one kind: it is a bucket (Capacity, Refill, Per; Burst), " +
			"a quota (Quota, Period, Zone, Anchor; In, From) or a concurrency limit (Concurrent, Lease; WithLease)")
	case !bucket && !quota && !permits:
		return limit, errors.New("a limit is empty: make it with PerSecond, PerMinute, PerHour, Quota or Concurrent")
	case quota:
		limit, err = l.compileQuota(name)
	case permits:
		limit, err = domain.NewConcurrency(name, domain.Tokens(l.Concurrent), cmp.Or(l.Lease, limitspec.DefaultLease))
	default:
		limit, err = l.compileBucket(name)
	}
	if err == nil && l.Cost != 0 {
		return limit.WithCost(domain.Tokens(l.Cost))
	}
	return limit, err
}

func (l *Limit) compileBucket(name string) (domain.Limit, error) {
	capacity, refill := domain.Tokens(l.Capacity), domain.Tokens(l.Refill)
	if l.by == "" {
		return domain.NewBucket(name, capacity, refill, l.Per)
	}
	fields := map[string]string{"capacity": "Burst", "rate": l.by}
	if capacity == refill {
		fields["capacity"] = l.by
		if refill < 1 || refill > domain.MaxTokens {
			refill = 1 // the capacity is refused, once for both
		}
	}
	limit, err := domain.NewBucket(name, capacity, refill, l.Per)
	return limit, errors.Join(fieldErrors(err, fields)...)
}

func (l *Limit) compileQuota(name string) (domain.Limit, error) {
	periods, wrongPeriod := calendar.Parse(string(l.Period), l.Zone, l.Anchor)
	// If the period is wrong, periods is a nil *Schedule, with which NewQuota checks the rest. The limit is not used then.
	limit, err := domain.NewQuota(name, domain.Tokens(l.Quota), periods)
	return limit, errors.Join(append(fieldErrors(wrongPeriod, periodFields), err)...)
}
