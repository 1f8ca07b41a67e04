package webtest

import (
	"testing"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

var noon = time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)

// Answer is how every entry point answers a decision.
type Answer struct {
	Decision decision.Decision
	Status   int
	Header   map[string]string // "" must not be there
	Problem  map[string]any    // members of the body
}

// Quotas returns answers to requests that a bucket of 10 tokens at 5/s and a quota of 1000 a day in Berlin decide together,
// on a day of 23 hours that ends at 22:00 UTC.
func Quotas(t testing.TB) map[string]Answer {
	t.Helper()
	const policies = `"burst";q=10;w=2, "daily";q=1000;w=82800`
	violated := func(limit, remaining, millis float64, names ...any) map[string]any {
		return map[string]any{
			"type":  "https://iana.org/assignments/http-problem-types#quota-exceeded",
			"limit": limit, "remaining": remaining, "retry_after_ms": millis, "violated-policies": names,
		}
	}
	return map[string]Answer{
		"nothing is used": {decide(t, noon, 0, 0, 0), 200, map[string]string{
			"RateLimit-Policy": policies, "RateLimit": `"burst";r=10, "daily";r=1000`,
		}, nil},
		"the quota is nearer to its end": {decide(t, noon, 0, 900, 1), 200, map[string]string{
			"X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": "99", "Retry-After": "", "X-RateLimit-Retry-After": "",
			"RateLimit-Policy": policies, "RateLimit": `"burst";r=9;t=1, "daily";r=99;t=36000`,
		}, nil},
		"the bucket is nearer to its end": {decide(t, noon, 9, 0, 1), 200, map[string]string{
			"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "RateLimit": `"burst";r=0;t=1, "daily";r=999;t=36000`,
		}, nil},
		"the quota denies": {decide(t, noon, 0, 1000, 1), 429, map[string]string{
			"X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": "0", "X-RateLimit-Retry-After": "36000", "Retry-After": "36000",
			"RateLimit-Policy": policies, "RateLimit": `"burst";r=10, "daily";r=0;t=36000`,
		}, violated(1000, 0, 36_000_000, "daily")},
		"both deny": {decide(t, noon, 10, 1000, 1), 429, map[string]string{
			"X-RateLimit-Limit": "1000", "Retry-After": "36000", "RateLimit": `"burst";r=0;t=1, "daily";r=0;t=36000`,
		}, violated(1000, 0, 36_000_000, "burst", "daily")},
		"the bucket denies": {decide(t, noon, 10, 500, 1), 429, map[string]string{
			"X-RateLimit-Limit": "10", "Retry-After": "1", "RateLimit": `"burst";r=0;t=1, "daily";r=500;t=36000`,
		}, violated(10, 0, 200, "burst")},
		"a debt of the quota": {decide(t, noon, 0, 1500, 1), 429, map[string]string{
			"X-RateLimit-Remaining": "0", "RateLimit": `"burst";r=10, "daily";r=0;t=36000`,
		}, violated(1000, 0, 36_000_000, "daily")},
		"a microsecond before the period's end": {decide(t, noon.Add(10*time.Hour-time.Microsecond), 0, 1000, 1), 429, map[string]string{
			"Retry-After": "1", "X-RateLimit-Retry-After": "1", "RateLimit": `"burst";r=10, "daily";r=0;t=1`,
		}, violated(1000, 0, 1, "daily")},
		"a new period, of 24 hours": {decide(t, noon.Add(10*time.Hour), 0, 1000, 1), 200, map[string]string{
			"RateLimit-Policy": `"burst";q=10;w=2, "daily";q=1000;w=86400`, "RateLimit": `"burst";r=9;t=1, "daily";r=999;t=86400`,
		}, nil},
		"a cost that the quota allows and the bucket never": {decide(t, noon, 0, 0, 11), 429, map[string]string{
			"Retry-After": "", "X-RateLimit-Retry-After": "", "X-RateLimit-Limit": "10",
		}, violated(10, 10, -1, "burst")},
		"a failure policy": {fellBack(t), 200, map[string]string{
			"X-RateLimit-Limit": "10", "RateLimit-Policy": `"burst";q=10;w=2, "daily";q=1000`, "X-RateLimit-Store": "fallback",
			"X-RateLimit-Remaining": "", "RateLimit": "", "Retry-After": "",
		}, nil},
	}
}

func limits(t testing.TB) []domain.Limit {
	t.Helper()
	burst, err := domain.NewBucket("burst", 10, 5, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	days, err := calendar.Parse("day", "Europe/Berlin", "")
	if err != nil {
		t.Fatal(err)
	}
	daily, err := domain.NewQuota("daily", 1000, days)
	if err != nil {
		t.Fatal(err)
	}
	return []domain.Limit{burst, daily}
}

// decide takes cost tokens at a time when so many tokens of the bucket are spent. The quota's were used on 2026-03-29 at noon.
func decide(t testing.TB, at time.Time, spent, used, cost domain.Tokens) decision.Decision {
	t.Helper()
	l, now := limits(t), domain.InstantOf(at)
	states := []domain.State{l[0].Full(now), {Amount: domain.Credits(used), At: domain.InstantOf(noon), TokenCredits: 1}}
	states[0].Amount -= domain.Credits(spent) * states[0].TokenCredits
	verdict, _ := domain.Apply(domain.Operation{Op: domain.OpTake, Cost: cost}, l, states, nil, now)
	d := decision.Decision{Policy: "default", Cost: cost, Store: decision.StoreMemory, At: now, LevelKnown: true}
	if verdict == domain.Allowed {
		d.Outcome = decision.OutcomeAllowed
	}
	for i := range l {
		d.Limits = append(d.Limits, l[i].Status(states[i], now, cost, 0, verdict == domain.Allowed))
	}
	return d
}

func fellBack(t testing.TB) decision.Decision {
	t.Helper()
	d := decision.Decision{Outcome: decision.OutcomeAllowed, Policy: "default", Store: decision.StoreFallback}
	for _, l := range limits(t) {
		d.Limits = append(d.Limits, l.UnknownStatus(true))
	}
	return d
}
