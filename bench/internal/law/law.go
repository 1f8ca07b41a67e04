// Package law asks what a limiter's speed does not show: how much it lets pass, and whether a denial costs anything.
//
// For a limit of capacity C that refills r tokens a second, no window of W seconds may let pass more than C + r*W.
package law

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
)

// Admission is one request that passed: when it was asked and when the answer was there. The limiter decided
// somewhere in between.
type Admission struct {
	Asked, Answered time.Time
}

// Finding is what was seen of one client.
type Finding struct {
	// Attempts and Admitted over the whole test.
	Attempts, Admitted int
	// InOneSecond is the most that passed within any second.
	InOneSecond int
	// Over is how many tokens more than C + r*W passed in the worst window. A window is measured from the first
	// asking to the last answer, the longest it can have been, so what is over was proven over; 0 if none was.
	Over float64
}

// Judge examines admissions in the order in which they were asked.
func Judge(limit peer.Limit, admissions []Admission) Finding {
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

// AtTheEdge plays the client that knows its limiter: it asks once as a second begins, so that a window that starts
// with a client's first request starts with the clock's too, waits until shortly before the window of the limit ends, and then
// asks as fast as it can across that edge.
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
	f := Judge(limit, admissions)
	f.Attempts = attempts
	return f, nil
}

// WorstAtTheEdge plays it so many times, each time with another client, and returns what was seen the worst time: a
// machine that stalls for a moment can make a try miss the edge, but nothing makes a limiter that keeps the law break it.
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

// The two limits of SpentByDenials, which do not refill within the test.
var (
	Wide   = peer.Limit{Tokens: 50, Per: 24 * time.Hour, Capacity: 50}
	Narrow = peer.Limit{Tokens: 1, Per: 24 * time.Hour, Capacity: 1}
)

// SpentByDenials asks for a client until the narrow limit has denied it ten times, and returns how many tokens the wide
// limit has lost more than the one that passed. both asks for the two together, wide for the wide one alone.
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
