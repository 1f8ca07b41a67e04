package script_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The random part of the differential test: limits, requests and clocks that reach the edges often.

func differKey(k int) clientkey.BucketKey { return key(fmt.Sprintf("differ-%d", k)) }

func (d *differential) oneIn(n int) bool { return d.rnd.IntN(n) == 0 }

// edgeSets are the edges that no seed may miss.
func edgeSets(t *testing.T) [][]domain.Limit {
	yearly := limit(t, "a", "7/8760h", 500) // ticks of 1 ms, and 100 years refill less than 2^52 credits
	huge, err := domain.NewBucket("a", 1, 1, time.Duration(domain.MaxCredits/2-1)*time.Microsecond)
	require.NoError(t, err)
	daily := quota(t, "a", 3, "day in Europe/Berlin") // one limit alone takes a way of its own
	monthly := withCost(t, quota(t, "b", 100, "month in America/New_York from 2026-01-31"), 7)
	permits, few := concurrency(t, "c", 5, time.Minute), concurrency(t, "d", 2, time.Second)
	return [][]domain.Limit{
		{yearly}, {huge}, {daily}, {monthly}, {daily, monthly}, {yearly, monthly}, {permits}, {few, permits}, {huge, few}, {permits, monthly, few, yearly},
	}
}

// randomSet has 1 to 5 limits of different names. Names are few, so that sets share buckets whose limits differ.
func (d *differential) randomSet() []domain.Limit {
	names := []string{"a", "b", "c", "d", "e"}
	d.rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	n := 1
	if d.oneIn(3) {
		n = 1 + d.rnd.IntN(len(names))
	}
	limits := make([]domain.Limit, n)
	for i := range limits {
		limits[i] = d.randomLimit(names[i])
	}
	return limits
}

// randomLimit is of any kind. One in five buckets and quotas has a cost of its own.
func (d *differential) randomLimit(name string) domain.Limit {
	l := domain.Limit{}
	switch d.rnd.IntN(5) {
	case 0, 1:
		l = d.randomQuota(name)
	case 2, 3:
		l = d.randomBucket(name)
	default:
		return d.randomConcurrency(name)
	}
	if d.oneIn(5) {
		most := min(l.Capacity(), domain.MaxCost)
		l = withCost(d.t, l, 1+min(domain.Tokens(d.rnd.IntN(5)), most-1))
	}
	return l
}

func (d *differential) randomConcurrency(name string) domain.Limit {
	leases := []time.Duration{time.Second, 1_500_001 * time.Microsecond, time.Minute, time.Hour, 24 * time.Hour}
	permits := 1 + domain.Tokens(d.rnd.IntN(1+d.rnd.IntN(permitIDs+2)))
	if d.rnd.IntN(4) == 0 {
		permits += 24 // its set has an index
	}
	return concurrency(d.t, name, permits, leases[d.rnd.IntN(len(leases))])
}

func (d *differential) randomQuota(name string) domain.Limit {
	periods := []string{
		"1s", "minute", "hour", "hour from 2026-01-15T08:20:00Z", "day", "day in Europe/Berlin", "day in Asia/Kathmandu",
		"day in Australia/Lord_Howe from 2026-01-15T02:30:00+11:00", "week", "month", "month in Europe/Berlin",
		"month in UTC from 2026-01-31", "year", "36h", "876000h",
	}
	return quota(d.t, name, d.randomTokens(), periods[d.rnd.IntN(len(periods))])
}

// randomBucket draws until a bucket can be counted exactly; one in three is as near to 2^52 credits as it can be.
func (d *differential) randomBucket(name string) domain.Limit {
	pers := []time.Duration{
		time.Microsecond, 7 * time.Microsecond, time.Millisecond, 250 * time.Millisecond, time.Second, 7 * time.Second,
		time.Minute, time.Hour, 24 * time.Hour, 30 * 24 * time.Hour, 365 * 24 * time.Hour, 9_007_199_254_740_993 * time.Nanosecond,
	}
	for {
		capacity, refill := d.randomTokens(), d.randomTokens()
		per := pers[d.rnd.IntN(len(pers))].Truncate(time.Microsecond)
		switch d.rnd.IntN(6) {
		case 0:
			per = time.Duration(1+d.rnd.Int64N(4_000_000_000_000_000)) * time.Microsecond
		case 1: // with most capacities too long for ticks of a microsecond
			per = time.Duration(1+d.rnd.Int64N(3_000_000_000_000)) * time.Millisecond
		}
		if d.oneIn(3) { // p = per in microseconds, if refill has no factor in common with it
			capacity = max(1, min(domain.Tokens(domain.MaxCredits)/domain.Tokens(max(1, per.Microseconds())), domain.MaxTokens))
		}
		if l, err := domain.NewBucket(name, capacity, refill, per); err == nil {
			return l
		}
	}
}

func (d *differential) randomTokens() domain.Tokens {
	switch d.rnd.IntN(6) {
	case 0:
		return domain.MaxTokens - domain.Tokens(d.rnd.IntN(3))
	case 1:
		return 1 + domain.Tokens(d.rnd.Int64N(int64(domain.MaxTokens)))
	case 2:
		return 1 + domain.Tokens(d.rnd.Int64N(1<<d.rnd.IntN(40)))
	default:
		return 1 + domain.Tokens(d.rnd.IntN(20))
	}
}

func (d *differential) randomRequests() []ports.TakeRequest {
	n := 3 * script.MaxGroups / 2
	if d.oneIn(8) {
		n = 1 + d.rnd.IntN(script.MaxGroups)
	}
	reqs := make([]ports.TakeRequest, n)
	for i := range reqs {
		if i > 0 && d.oneIn(2) { // equal requests, with others between them
			reqs[i] = reqs[max(0, i-1-d.rnd.IntN(3))]
			reqs[i].Permit = fmt.Sprintf("id-%d", d.rnd.IntN(permitIDs))
			continue
		}
		k := d.rnd.IntN(differKeys)
		set := d.sets[k%len(d.sets)] // mostly a key keeps its limits
		if d.oneIn(10) {
			set = d.sets[d.rnd.IntN(len(d.sets))]
		}
		op := d.randomOp()
		reqs[i] = ports.TakeRequest{
			Op: op, Key: differKey(k), Limits: set, Cost: d.randomCost(op, set), TakenAt: d.randomTakenAt(set),
			MaxWait: d.randomWait(set), Permit: fmt.Sprintf("id-%d", d.rnd.IntN(permitIDs)),
		}
		require.NoError(d.t, reqs[i].Check())
	}
	return reqs
}

// randomTakenAt is mostly about the start of a period.
func (d *differential) randomTakenAt(set []domain.Limit) domain.Instant {
	q := set[d.rnd.IntN(len(set))].Quota()
	switch d.rnd.IntN(8) {
	case 0:
		return d.now - domain.Instant(d.rnd.Int64N(int64(d.now)))
	case 1:
		return d.now + domain.Instant(d.rnd.IntN(1000))
	case 2, 3:
		if q != nil {
			start, _, _ := q.Periods().At(d.now)
			return max(0, start-domain.Instant(d.rnd.IntN(2)))
		}
	}
	return 0
}

// randomWait is mostly what a bucket needs to refill a few tokens.
func (d *differential) randomWait(set []domain.Limit) time.Duration {
	switch b := set[d.rnd.IntN(len(set))].TokenBucket(); {
	case d.oneIn(2) || b == nil:
		return 0
	case d.oneIn(4):
		return policy.MaxMaxWait - time.Duration(d.rnd.IntN(3))*time.Nanosecond
	default:
		return time.Duration(d.rnd.Int64N(1 + min(int64(b.FillTime()), int64(policy.MaxMaxWait))))
	}
}

// knownTime is the time of the server as a node knows it: mostly exactly.
func (d *differential) knownTime() domain.Instant {
	switch d.rnd.IntN(8) {
	case 0:
		return d.now.Add(-time.Duration(d.rnd.Int64N(int64(2 * time.Hour))))
	case 1:
		return d.now.Add(time.Duration(d.rnd.Int64N(int64(60*24*time.Hour))) - 30*24*time.Hour)
	default:
		return d.now
	}
}

// plantDebt stores a large debt in one quota: charges alone would take years to get there.
func (d *differential) plantDebt() {
	name := differKey(d.rnd.IntN(differKeys))
	m := d.model[name]
	if m == nil {
		return
	}
	for _, field := range slices.Sorted(maps.Keys(m.writers)) {
		if l := m.writers[field]; l.Quota() != nil {
			most := domain.Credits(l.Capacity()) + domain.MaxCredits
			below := d.rnd.Int64N(4) << (31 * d.rnd.IntN(2)) // another limit may have stored more than this one's most
			s := domain.State{Amount: most + 2 - domain.Credits(below), At: d.now, TokenCredits: 1}
			m.states[field] = s
			require.NoError(d.t, d.client.HSet(d.t.Context(), script.RedisKey(name), field, storedText(field, s)+":1").Err()) // with a cached expiry, as most have
			return
		}
	}
}

func (d *differential) randomOp() domain.Op {
	ops := [...]domain.Op{
		domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake,
		domain.OpPeek, domain.OpRefund, domain.OpCharge, domain.OpCharge, domain.OpUndo, domain.OpRelease, domain.OpRenew,
		domain.OpList, domain.OpSettle,
	}
	if d.oneIn(30) {
		return domain.OpReset
	}
	return ops[d.rnd.IntN(len(ops))]
}

func (d *differential) randomCost(op domain.Op, set []domain.Limit) domain.Tokens {
	capacity := min(set[d.rnd.IntN(len(set))].Capacity(), domain.MaxCost)
	cost := domain.Tokens(0)
	switch d.rnd.IntN(10) {
	case 0:
		cost = domain.MaxCost - domain.Tokens(d.rnd.IntN(2))
	case 1:
		cost = capacity + domain.Tokens(d.rnd.IntN(3)) - 1
	case 2, 3, 4:
		cost = domain.Tokens(d.rnd.Int64N(int64(capacity) + 1))
	case 5, 6:
		cost = 1 + (capacity-1)/4
	default:
		cost = domain.Tokens(d.rnd.IntN(4))
	}
	if op == domain.OpRefund || op == domain.OpCharge || op == domain.OpUndo {
		cost = max(cost, 1)
	}
	cost = max(0, min(cost, domain.MaxCost))
	if (op == domain.OpRelease || op == domain.OpSettle) && d.oneIn(2) {
		return -cost
	}
	return cost
}

// moveClock moves the clock before a run: mostly a little forward, at times far, at times back. It stays between
// 2030 and 2050, in the future, so that the server, which knows the true time, never deletes a key by its own.
func (d *differential) moveClock() {
	before := d.now
	switch d.rnd.IntN(12) {
	case 0:
	case 1:
		d.now = d.now.Add(-time.Duration(d.rnd.Int64N(int64(time.Hour))))
	case 2:
		d.now = d.now.Add(time.Duration(d.rnd.Int64N(int64(200*24*time.Hour))) - 100*24*time.Hour)
	case 3:
		d.now = d.now.Add(time.Duration(d.rnd.Int64N(int64(24 * time.Hour))))
	case 4, 5:
		d.now = d.now.Add(time.Duration(d.rnd.IntN(20)) * time.Microsecond)
	case 6:
		d.now = d.periodsEdge()
	default:
		d.now = d.now.Add(time.Duration(d.rnd.Int64N(int64(2 * time.Second))))
	}
	lowest := domain.InstantOf(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	highest := domain.InstantOf(time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC))
	d.now = max(lowest, min(d.now, highest))
	d.count("clock back", d.now < before)
}

// periodsEdge is about the start or the end of a quota's period.
func (d *differential) periodsEdge() domain.Instant {
	for {
		set := d.sets[d.rnd.IntN(len(d.sets))]
		if q := set[d.rnd.IntN(len(set))].Quota(); q != nil {
			start, end, nextEnd := q.Periods().At(d.now)
			edges := [...]domain.Instant{start, end, end, nextEnd}
			return edges[d.rnd.IntN(len(edges))] - domain.Instant(d.rnd.IntN(2))
		}
	}
}
