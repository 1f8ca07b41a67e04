package limitspec

import (
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

// CheckRate returns what is wrong with a [Spec.Rate], whatever the other fields are: a [domain.FieldError].
func CheckRate(text string) error {
	_, _, err := domain.ParseRate(text)
	for _, wrong := range domain.FieldErrors(err) {
		if count, span, _ := strings.Cut(text, "/"); calendarUnit(span) != "" {
			wrong.Reason += "; for at most that many in each " + calendarUnit(span) + " write quota: " + count + "/" + calendarUnit(span)
		}
	}
	return err
}

// calendarUnit returns the unit of the calendar that span names, such as day for "d" and "days", or "".
func calendarUnit(span string) string {
	switch word := strings.TrimSuffix(strings.ToLower(span), "s"); word {
	case "d":
		return "day"
	case "w":
		return "week"
	case "day", "week", "month", "year":
		return word
	}
	return ""
}

// CheckQuota is as [CheckRate], for a [Spec.Quota].
func CheckQuota(text string) error {
	_, period, err := domain.ParseQuota(text)
	if err != nil {
		return err
	}
	_, err = calendar.Parse(period, "", "")
	for _, wrong := range domain.FieldErrors(err) {
		return invalid("quota", strconv.Quote(text), "the period "+wrong.Value+": "+wrong.Reason)
	}
	return nil
}

// CheckZone is as [CheckRate], for a [Spec.Zone].
func CheckZone(text string) error {
	if text == "" {
		return invalid("zone", `""`, "must not be empty; without a zone, periods are those of UTC")
	}
	_, err := calendar.Parse("day", text, "")
	return err
}

// CheckAnchor is as [CheckRate], for a [Spec.Anchor].
func CheckAnchor(text string) error {
	if text == "" {
		return invalid("anchor", `""`, "must not be empty; without an anchor, periods have the calendar's own starts")
	}
	_, err := calendar.Parse("day", "", text)
	return err
}

// CheckLease is as [CheckRate], for a [Spec.Lease].
func CheckLease(text string) error {
	_, err := domain.ParseDuration("lease", text)
	return err
}
