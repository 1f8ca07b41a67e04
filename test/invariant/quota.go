package invariant

import "errors"

// Quota is a limit of Size tokens in each period.
type Quota struct {
	Size int64 // tokens
	// Start returns the start of the period that a time is in. Both are the store's time, in microseconds.
	Start func(us int64) int64
}

// NewQuotaChecker returns a checker of a quota of which nothing is used. Levels are what remains, in tokens.
func NewQuotaChecker(q Quota) (*Checker, error) {
	if q.Size < 1 || q.Start == nil {
		return nil, errors.New("invariant: a quota needs a positive size, and periods")
	}
	return newChecker(&quotaRule{Quota: q, granting: map[int64]int64{}}), nil
}

// quotaRule is the rule of quotas.
type quotaRule struct {
	Quota
	granting map[int64]int64 // by period, what it could still grant when it was left
	past     int64           // periods that are no longer in granting
}

func (q *quotaRule) unitsPerToken() int64 { return 1 }
func (q *quotaRule) full() int64          { return q.Size }

// passed returns the whole quota if a new period began. What was used while the clock was ahead counts in the period to
// which it goes back, so a clock that goes back gives nothing.
func (q *quotaRule) passed(level, from, to int64) int64 {
	if from < q.Start(to) {
		return q.Size
	}
	return level
}

// lent returns 0: a request cannot wait for the next period.
func (q *quotaRule) lent(int64) int64 { return 0 }

// granted knows what each period has granted, so a clock that comes back to a period does not grant it twice.
func (q *quotaRule) granted(level, from, to int64) int64 {
	q.granting[q.Start(from)] = level
	if left, ok := q.granting[q.Start(to)]; ok {
		return left
	}
	q.granting[q.Start(to)] = q.Size
	return q.Size
}

// forget forgets the periods before that of a time, to which the clock does not come back.
func (q *quotaRule) forget(us int64) {
	for start := range q.granting {
		if start < q.Start(us) {
			delete(q.granting, start)
			q.past++
		}
	}
}

func (q *quotaRule) periods() int64 { return q.past + int64(len(q.granting)) }

func (q *quotaRule) counts(takenUS, nowUS int64) bool { return takenUS >= q.Start(nowUS) }
