package script_test

import (
	"cmp"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The permits of the differential test's model.

// permitIDs is how many IDs there are: few, so that many operations are about a permit that is held.
const permitIDs = 12

// modelSet is what the model holds in the place of a Sorted Set.
type modelSet struct {
	members  map[string]domain.Instant // as stored; those that have expired leave with the next take that passes
	permits  *domain.Permits           // those of members that had not expired when it was seen last
	seen     domain.Instant
	expiryMS int64
}

func (d *differential) set(k clientkey.BucketKey, name string) *modelSet {
	if d.sorted[k] == nil {
		d.sorted[k] = make(map[string]*modelSet)
	}
	s := d.sorted[k][name]
	if s == nil {
		s = &modelSet{members: make(map[string]domain.Instant), permits: new(domain.Permits)}
		d.sorted[k][name] = s
	}
	return s
}

// held are the permits of the request's limits. Where the clock went back, what had expired is held again.
func (d *differential) held(req *ports.TakeRequest) []*domain.Permits {
	permits := make([]*domain.Permits, len(req.Limits))
	for i := range req.Limits {
		if req.Limits[i].Concurrency() == nil {
			continue
		}
		s := d.set(req.Key, req.Limits[i].Name())
		if d.now < s.seen {
			d.count("permits expire again", s.live(d.now) > 0)
			s.permits = d.permitsOf(s.members)
		}
		s.seen = d.now
		permits[i] = s.permits
	}
	return permits
}

// live is how many of the members have not expired.
func (s *modelSet) live(now domain.Instant) (n int) {
	for _, expires := range s.members {
		if expires > now {
			n++
		}
	}
	return n
}

// permitsOf takes the members that expire last first, so that a take finds none expired.
func (d *differential) permitsOf(members map[string]domain.Instant) *domain.Permits {
	permits, all := new(domain.Permits), sortedPermits(members)
	slices.Reverse(all)
	limits := []domain.Limit{concurrency(d.t, "all", domain.MaxConcurrent, domain.MaxLease)}
	for _, p := range all {
		op := domain.Operation{Op: domain.OpTake, Cost: 1, Permit: p.ID}
		domain.Apply(op, limits, make([]domain.State, 1), []*domain.Permits{permits}, p.Expires.Add(-domain.MaxLease))
	}
	return permits
}

func sortedPermits(members map[string]domain.Instant) (all []domain.Permit) {
	for id, expires := range members {
		all = append(all, domain.Permit{ID: id, Expires: expires})
	}
	slices.SortFunc(all, func(a, b domain.Permit) int {
		return cmp.Or(cmp.Compare(a.Expires, b.Expires), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// storePermits does to the members what the operation did.
func (d *differential) storePermits(req *ports.TakeRequest, verdict domain.Verdict) {
	for i := range req.Limits {
		c := req.Limits[i].Concurrency()
		if c == nil {
			continue
		}
		s := d.set(req.Key, req.Limits[i].Name())
		switch {
		case req.Op == domain.OpRelease || req.Op == domain.OpUndo:
			d.count("expired permit ended", s.members[req.Permit] > 0 && s.members[req.Permit] <= d.now)
			delete(s.members, req.Permit)
		case req.Op == domain.OpTake && req.Cost > 0 && verdict == domain.Allowed:
			s.dropExpired(d)
			s.postpone(d, c.Lease(), len(s.members) == 0)
			d.count("permit taken again", s.members[req.Permit] > 0)
			s.members[req.Permit] = d.now.Add(c.Lease())
		case req.Op == domain.OpRenew && verdict == domain.Allowed:
			s.postpone(d, c.Lease(), true)
			s.members[req.Permit] = d.now.Add(c.Lease())
		}
	}
}

func (s *modelSet) dropExpired(d *differential) {
	for id, expires := range s.members {
		if expires <= d.now {
			d.count("permit expired", true)
			delete(s.members, id)
		}
	}
}

// postpone keeps the set for a day after the lease, unless the permit that expires first began in this hour.
func (s *modelSet) postpone(d *differential, lease time.Duration, always bool) {
	hour := func(at domain.Instant) time.Time { return at.Time().Truncate(time.Hour) }
	if !always && hour(sortedPermits(s.members)[0].Expires.Add(-lease)).Equal(hour(d.now)) {
		d.count("expiry of permits kept", true)
		return
	}
	d.count("expiry of permits postponed", !always)
	s.expiryMS = (int64(d.now.Add(lease+24*time.Hour)) + 999) / 1000
}

// listed is the answer to a list.
func (d *differential) listed(req *ports.TakeRequest, permits []*domain.Permits) [][]domain.Permit {
	if req.Op != domain.OpList {
		return nil
	}
	lists := make([][]domain.Permit, len(permits))
	for i, p := range permits {
		if p != nil {
			lists[i] = p.List(nil)
			d.count("list of some", len(lists[i]) > 1)
		}
	}
	return lists
}

func (d *differential) observePermits(req *ports.TakeRequest, s domain.State, verdict domain.Verdict) {
	d.count("no permit left", s.Amount > 0 && req.Op == domain.OpTake && verdict == domain.Denied)
}

// compareSets compares all Sorted Sets. The database holds no key that the model does not.
func (d *differential) compareSets() {
	type stored struct {
		set     *modelSet
		members *redis.ZSliceCmd
		expiry  *redis.DurationCmd
	}
	pipe := d.client.Pipeline()
	var all []stored
	for k, sets := range d.sorted {
		for name, s := range sets {
			if len(s.members) > 0 {
				key := script.PermitsKey(k, name)
				all = append(all, stored{s, pipe.ZRangeWithScores(d.t.Context(), key, 0, -1), pipe.PExpireTime(d.t.Context(), key)})
			}
		}
	}
	size := pipe.DBSize(d.t.Context())
	_, err := pipe.Exec(d.t.Context())
	require.NoError(d.t, err)
	require.EqualValues(d.t, len(d.model)+len(all), size.Val())
	for _, one := range all {
		got := make([]domain.Permit, 0, len(one.set.members))
		for _, z := range one.members.Val() {
			got = append(got, domain.Permit{ID: z.Member.(string), Expires: domain.Instant(z.Score)})
		}
		require.Equal(d.t, sortedPermits(one.set.members), got)
		require.Equal(d.t, one.set.expiryMS, one.expiry.Val().Milliseconds())
	}
}
