// Package invariant checks how much a limiter lets pass, and whether a denial costs tokens.
//
// For a limit of capacity C that refills r tokens a second, no window of W seconds may let pass more than C + r*W.
package invariant

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
)

// Admission is one request that passed: when it was sent and when its answer arrived. The limiter decided in between.
type Admission struct {
	Asked, Answered time.Time
}

// Finding is the result of checking one client.
type Finding struct {
	// Attempts and Admitted over the whole test.
	Attempts, Admitted int
	// InOneSecond is the most that passed within any second.
	InOneSecond int
	// Over is how many tokens more than C + r*W passed in the worst window; 0 if none did. A window is measured from
	// the first question to the last answer, which is the longest that it can have been.
	Over float64
}

// Check examines admissions in the order of their questions.
func Check(limit peer.Limit, admissions []Admission) Finding {
	f := Finding{Admitted: len(admissions)}
	perSecond := float64(limit.Tokens) / limit.Per.Seconds()
	for i := range admissions {
		for j := i; j < len(admissions); j++ {
			n, span := j-i+1, admissions[j].Answered.Sub(admissions[i].Asked)
			f.Over = max(f.Over, float64(n)-float64(limit.Capacity)-perSecond*span.Seconds())
			if span <= time.Second {
				f.InOneSecond = max(f.InOneSecond, n)
			}
		}
	}
	return f
}

// AtTheEdge acts as a client that knows its limiter. It asks once as a second begins, so that windows which start with
// the first request and windows of the clock start together. It waits until shortly before the window of the limit ends,
// and then asks as fast as it can across that edge.
func AtTheEdge(ctx context.Context, take peer.Take, client string, limit peer.Limit, window time.Duration) (Finding, error) {
	const before, after = 120 * time.Millisecond, 400 * time.Millisecond
	if err := sleepUntil(ctx, time.Now().Truncate(time.Second).Add(time.Second)); err != nil {
		return Finding{}, err
	}
	var admissions []Admission
	attempts := 0
	ask := func() error {
		asked := time.Now()
		allowed, err := take(ctx, client)
		if allowed {
			admissions = append(admissions, Admission{asked, time.Now()})
		}
		attempts++
		return err
	}
	first := time.Now()
	if err := ask(); err != nil {
		return Finding{}, err
	}
	edge := first.Add(window)
	if err := sleepUntil(ctx, edge.Add(-before)); err != nil {
		return Finding{}, err
	}
	for time.Now().Before(edge.Add(after)) {
		if err := ask(); err != nil {
			return Finding{}, err
		}
	}
	f := Check(limit, admissions)
	f.Attempts = attempts
	return f, nil
}

// WorstAtTheEdge repeats AtTheEdge with another client each time and returns the worst finding. A machine that stalls can
// make a try miss the edge; it cannot make a correct limiter exceed its limit.
func WorstAtTheEdge(ctx context.Context, take peer.Take, client string, limit peer.Limit, window time.Duration, tries int) (Finding, error) {
	var worst Finding
	for i := range tries {
		f, err := AtTheEdge(ctx, take, client+strconv.Itoa(i), limit, window)
		if err != nil {
			return Finding{}, err
		}
		if f.Over > worst.Over || f.Over == worst.Over && f.InOneSecond > worst.InOneSecond {
			worst = f
		}
	}
	return worst, nil
}

// The two limits of SpentByDenials. They do not refill within the test.
var (
	Wide   = peer.Limit{Tokens: 50, Per: 24 * time.Hour, Capacity: 50}
	Narrow = peer.Limit{Tokens: 1, Per: 24 * time.Hour, Capacity: 1}
)

// SpentByDenials asks for a client until the narrow limit has denied it ten times. It returns how many tokens the denials
// took from the wide limit. both asks both limits together, wide asks the wide limit only.
func SpentByDenials(ctx context.Context, both, wide peer.Take, client string) (int, error) {
	passed := 0
	for range Narrow.Capacity + 10 {
		allowed, err := both(ctx, client)
		if err != nil {
			return 0, err
		}
		if allowed {
			passed++
		}
	}
	if passed != Narrow.Capacity {
		return 0, fmt.Errorf("%d requests passed a limit of %d", passed, Narrow.Capacity)
	}
	left := 0
	for range Wide.Capacity {
		allowed, err := wide(ctx, client)
		if err != nil {
			return 0, err
		}
		if allowed {
			left++
		}
	}
	return Wide.Capacity - passed - left, nil
}

func sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
