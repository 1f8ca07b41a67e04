// Package limitspec makes limits of the texts by which people describe them.
//
// Every syntax in which a limit is written, such as that of the policy file, is read into a [Spec] first. So a limit means
// the same everywhere, and is refused for the same reasons.
package limitspec

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

// DefaultLease is the lease of permits for which none is said.
const DefaultLease = time.Minute

// Spec describes one limit. A zero field says nothing, so who reads a Spec refuses a text that is empty and a number that
// is 0. It has either Rate and Capacity, or Quota, or Concurrent.
type Spec struct {
	Name string
	// Rate is the refill of a bucket, as [domain.ParseRate] reads it.
	Rate string
	// Capacity is that of a bucket, in tokens.
	Capacity domain.Tokens
	// Quota is the quota and its period, as [domain.ParseQuota] reads it.
	Quota string
	// Zone and Anchor say when the periods of the quota start; see [calendar.Parse].
	Zone, Anchor string
	// Concurrent is the number of permits that can be held at once.
	Concurrent domain.Tokens
	// Lease is how long a permit is valid without being renewed; "" is [DefaultLease].
	Lease string
	// Cost is the limit's own cost, in tokens; see [domain.Limit.WithCost].
	Cost domain.Tokens
}

// Limit returns the limit that s describes. The error joins a [domain.FieldError] for each wrong field: "name", "rate",
// "capacity", "quota", "zone", "anchor", "concurrent", "lease" or "cost". Their values are as they are written in s.
func (s Spec) Limit() (domain.Limit, error) {
	if err := errors.Join(s.checkKind(), s.checkTexts()); err != nil {
		return domain.Limit{}, err
	}
	limit, err := s.limit()
	if err != nil || s.Cost == 0 {
		return limit, asWritten(err, s)
	}
	return limit.WithCost(s.Cost)
}

// limit returns the limit without its own cost. The kind and the texts are checked.
func (s Spec) limit() (domain.Limit, error) {
	switch {
	case s.Concurrent != 0:
		lease := DefaultLease
		if s.Lease != "" {
			lease, _ = domain.ParseDuration("lease", s.Lease)
		}
		return domain.NewConcurrency(s.Name, s.Concurrent, lease)
	case s.Quota == "":
		refill, per, _ := domain.ParseRate(s.Rate)
		return domain.NewBucket(s.Name, s.Capacity, refill, per)
	}
	quota, period, _ := domain.ParseQuota(s.Quota)
	periods, err := calendar.Parse(period, s.Zone, s.Anchor)
	if err != nil {
		return domain.Limit{}, err
	}
	return domain.NewQuota(s.Name, quota, periods)
}

// asWritten returns err with the whole rate, quota or lease as the value, where err shows a part of it or another form.
func asWritten(err error, s Spec) error {
	var all []error
	for _, wrong := range domain.FieldErrors(err) {
		if slices.Contains([]string{"rate", "quota", "lease"}, wrong.Field) {
			wrong.Value = s.written(wrong.Field)
		}
		all = append(all, wrong)
	}
	return errors.Join(all...)
}

// Override returns the limit that base describes, with what s says in place of what base says. If s says what only another kind of
// limit has, a rate, a quota or concurrent, only the name and the cost of base stay; permits have no cost. The zone of base also
// goes if the period of s can have none. The error is as of [Spec.Limit], or says that s says nothing.
func (s Spec) Override(base Spec) (domain.Limit, error) {
	if s == (Spec{Name: s.Name}) {
		return domain.Limit{}, invalid("name", "",
			"nothing is said about this limit: say at least one of rate, capacity, quota, zone, anchor, concurrent, lease and cost")
	}
	whole := s
	whole.Name = base.Name
	if s.Quota == "" && s.Concurrent == 0 && base.Rate != "" {
		whole.Rate, whole.Capacity = cmp.Or(s.Rate, base.Rate), cmp.Or(s.Capacity, base.Capacity)
	}
	if s.Rate == "" && s.Concurrent == 0 && base.Quota != "" {
		whole.Quota, whole.Anchor = cmp.Or(s.Quota, base.Quota), cmp.Or(s.Anchor, base.Anchor)
		if s.Zone == "" && whole.canHave(base.Zone) {
			whole.Zone = base.Zone
		}
	}
	if s.Rate == "" && s.Quota == "" && base.Concurrent != 0 {
		whole.Concurrent, whole.Lease = cmp.Or(s.Concurrent, base.Concurrent), cmp.Or(s.Lease, base.Lease)
	}
	if whole.Concurrent == 0 {
		whole.Cost = cmp.Or(s.Cost, base.Cost)
	}
	return whole.Limit()
}

// canHave reports whether the quota's period can have this zone, which is a valid one or empty.
func (s Spec) canHave(zone string) bool {
	_, period, _ := domain.ParseQuota(s.Quota)
	_, err := calendar.Parse(period, zone, "")
	return err == nil
}

// checkTexts checks each text by itself.
func (s Spec) checkTexts() error {
	var errs []error
	for _, field := range []struct {
		text  string
		check func(string) error
	}{{s.Rate, CheckRate}, {s.Quota, CheckQuota}, {s.Zone, CheckZone}, {s.Anchor, CheckAnchor}, {s.Lease, CheckLease}} {
		if field.text != "" {
			errs = append(errs, field.check(field.text))
		}
	}
	return errors.Join(errs...)
}

const kinds = "a limit has either a rate and a capacity, or a quota, or concurrent"

// checkKind checks that the fields are those of one kind.
func (s Spec) checkKind() error {
	var errs []error
	bad := func(is bool, field, reason string) {
		if is {
			errs = append(errs, invalid(field, s.written(field), reason+": "+kinds))
		}
	}
	hasRate, hasQuota, hasPermits := s.Rate != "", s.Quota != "", s.Concurrent != 0
	bad(hasQuota && hasRate, "quota", "there is a rate, too")
	bad(hasPermits && hasRate, "concurrent", "there is a rate, too")
	bad(hasPermits && hasQuota && !hasRate, "concurrent", "there is a quota, too")
	bad(hasQuota && !hasRate && s.Capacity != 0, "capacity", "a quota has no capacity")
	bad(hasPermits && !hasRate && !hasQuota && s.Capacity != 0, "capacity", "a concurrency limit has no capacity")
	bad(!hasQuota && s.Zone != "", "zone", "only a quota has a zone")
	bad(!hasQuota && s.Anchor != "", "anchor", "only a quota has an anchor")
	bad(!hasPermits && s.Lease != "", "lease", "only a concurrency limit has a lease")
	if len(errs) == 0 && !hasQuota && !hasPermits {
		bad(!hasRate, "rate", "is missing")
		bad(hasRate && s.Capacity == 0, "capacity", "is missing")
	}
	return errors.Join(errs...)
}

// written is the value of a field as errors show it, but of the name and the cost; "" if nothing is said.
func (s Spec) written(field string) string {
	text, number := "", domain.Tokens(0)
	switch field {
	case "rate":
		text = s.Rate
	case "quota":
		text = s.Quota
	case "zone":
		text = s.Zone
	case "anchor":
		text = s.Anchor
	case "lease":
		text = s.Lease
	case "capacity":
		number = s.Capacity
	case "concurrent":
		number = s.Concurrent
	}
	switch {
	case text != "":
		return strconv.Quote(text)
	case number != 0:
		return strconv.FormatInt(int64(number), 10)
	}
	return ""
}

func invalid(field, value, reason string) error {
	return &domain.FieldError{Kind: domain.ErrInvalidLimit, Field: field, Value: value, Reason: reason}
}

// Of returns a Spec of a limit: its Limit is equal to l, which must not be zero.
func Of(l *domain.Limit) Spec {
	s := Spec{Name: l.Name(), Cost: l.Cost()}
	switch l.Kind() {
	case domain.KindTokenBucket:
		s.Rate, s.Capacity = l.Rate(), l.Capacity()
	case domain.KindConcurrency:
		s.Concurrent, s.Lease, s.Cost = l.Capacity(), domain.FormatDuration(l.Concurrency().Lease()), 0
	case domain.KindQuota:
		size := strconv.FormatInt(int64(l.Capacity()), 10)
		schedule, ok := l.Quota().Periods().(*calendar.Schedule)
		if !ok {
			s.Quota = size + "/" + l.Quota().Periods().String()
			break
		}
		s.Quota, s.Zone, s.Anchor = size+"/"+schedule.Period(), schedule.Zone(), schedule.Anchor()
	}
	return s
}
