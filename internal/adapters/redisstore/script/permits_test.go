package script_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// about is the operation on the permit of that ID.
func about(id string, op domain.Op, client string, cost domain.Tokens, limits ...domain.Limit) ports.TakeRequest {
	req := operation(op, client, cost, limits...)
	req.Permit = id
	return req
}

func setKey(client, limitName string) string { return script.PermitsKey(key(client), limitName) }

// withMovableClock returns a store on a server whose clock is where set put it.
func withMovableClock(t *testing.T) (s store, set func(domain.Instant)) {
	c := plainClient(t, redistest.Start(t).Addr)
	set = func(now domain.Instant) { require.NoError(t, c.Set(t.Context(), "clock", int64(now), 0).Err()) }
	return store{script.New(withClock("local now_us = call('GET', 'clock') + 0")), c}, set
}

func (s store) one(t *testing.T, req ports.TakeRequest) ports.TakeResult {
	t.Helper()
	r := ports.Take(t.Context(), s, req)
	require.NoError(t, r.Err)
	return r
}

// Redis would search a list of up to 128 permits from end to end.
func TestPermits_manyHaveAnIndex(t *testing.T) {
	s, c := storeAndClient(t)
	few, many := concurrency(t, "few", 24, time.Minute), concurrency(t, "many", 25, time.Minute)
	var ids []string
	take := func(limit domain.Limit, id string) {
		t.Helper()
		r := s.one(t, about(id, domain.OpTake, "a", 1, limit))
		require.Equal(t, domain.Allowed, r.Verdict)
		require.Equal(t, limit.Capacity()-domain.Tokens(len(ids)), limit.Remaining(r.States[0]))
		require.ElementsMatch(t, ids, c.ZRange(t.Context(), setKey("a", limit.Name()), 0, -1).Val(), "and nothing else")
	}
	encoding := func(name string) string { return c.ObjectEncoding(t.Context(), setKey("a", name)).Val() }
	for i := range 24 {
		ids = append(ids, fmt.Sprintf("id-%02d", i))
		take(many, ids[i])
		require.Equal(t, "skiplist", encoding("many"))
		take(few, ids[i])
		require.Equal(t, "listpack", encoding("few"), "that takes less memory")
	}
	take(many, ids[23]) // again

	file := c.Dump(t.Context(), setKey("a", "many")).Val()
	require.NoError(t, c.RestoreReplace(t.Context(), setKey("a", "many"), time.Hour, file).Err())
	require.Equal(t, "listpack", encoding("many"), "Redis loaded it")
	require.NoError(t, c.ZAdd(t.Context(), setKey("a", "many"), redis.Z{Member: strings.Repeat("0", 70)}).Err(), "as a take leaves it that may not remove it")
	ids = append(ids, "id-24")
	take(many, "id-24")
	assert.Equal(t, "skiplist", encoding("many"))
	for i, id := range ids {
		r := s.one(t, about(id, domain.OpRelease, "a", 0, many))
		assert.Equal(t, domain.Tokens(i+1), many.Remaining(r.States[0]))
	}
	assert.Zero(t, c.Exists(t.Context(), setKey("a", "many")).Val())
}

func TestPermits_takesOfOneBatchSeeEachOther(t *testing.T) {
	s, c := storeAndClient(t)
	both := []domain.Limit{concurrency(t, "held", 2, time.Minute), limit(t, "burst", "1/h", 10)}
	var reqs []ports.TakeRequest
	for i := range 3 {
		reqs = append(reqs, about(fmt.Sprint("id-", i), domain.OpTake, "a", 1, both...), take("other", 1, both[1]))
	}
	reqs = append(reqs, about("id-0", domain.OpRelease, "a", 0, both...), about("id-3", domain.OpTake, "a", 1, both...))
	results := make([]ports.TakeResult, len(reqs))
	s.TakeMany(t.Context(), reqs, results)
	var verdicts []domain.Verdict
	for _, r := range results {
		require.NoError(t, r.Err)
		verdicts = append(verdicts, r.Verdict)
	}
	assert.Equal(t, []domain.Verdict{1, 1, 1, 1, 0, 1, 1, 1}, verdicts)
	assert.Equal(t, []string{"id-1", "id-3"}, c.ZRange(t.Context(), setKey("a", "held"), 0, -1).Val())
	assert.Equal(t, domain.Tokens(7), both[1].Remaining(results[7].States[1]))
}

func TestPermits_setExpiresADayAfterItsLastLease(t *testing.T) {
	s, setClock := withMovableClock(t)
	const day, lease = 24 * time.Hour, 10 * time.Minute
	held := concurrency(t, "held", 100, lease)
	noon := domain.InstantOf(time.Date(2040, 1, 1, 12, 0, 0, 0, time.UTC))
	for _, step := range []struct {
		at        time.Duration
		op        domain.Op
		id        string
		postponed bool
	}{
		{0, domain.OpTake, "first", true},
		{9 * time.Minute, domain.OpTake, "second", false},
		{9 * time.Minute, domain.OpRenew, "first", true},
		{50 * time.Minute, domain.OpTake, "third", true}, // the others have expired
		{59 * time.Minute, domain.OpTake, "fourth", false},
		{59*time.Minute + 59*time.Second, domain.OpRelease, "third", false},
		{time.Hour, domain.OpTake, "fifth", true}, // the hour before is that of the fourth
		{time.Hour, domain.OpList, "", false},
	} {
		before := s.client.PExpireTime(t.Context(), setKey("a", "held")).Val()
		setClock(noon.Add(step.at))
		require.Equal(t, domain.Allowed, s.one(t, about(step.id, step.op, "a", 1, held)).Verdict)
		want := before
		if step.postponed {
			want = time.Duration(noon.Add(step.at+lease+day)) * time.Microsecond
		}
		assert.Equal(t, want, s.client.PExpireTime(t.Context(), setKey("a", "held")).Val(), "%v of %s", step.op, step.id)
	}

	require.NoError(t, s.client.Persist(t.Context(), setKey("a", "held")).Err())
	setClock(noon.Add(2 * time.Hour))
	s.one(t, about("sixth", domain.OpTake, "a", 1, held))
	assert.Positive(t, s.client.PExpireTime(t.Context(), setKey("a", "held")).Val(), "an expiry that was lost is set again")
}

// everyOperation is all that a store can be asked about a permit.
func everyOperation(client string, limits ...domain.Limit) (reqs []ports.TakeRequest) {
	for op := domain.OpTake; op <= domain.OpList; op++ {
		reqs = append(reqs, about("id", op, client, 1, limits...))
	}
	return reqs
}

func TestPermits_aSetOfAnotherTypeFailsItsGroupAlone(t *testing.T) {
	held, more, burst := concurrency(t, "held", 5, time.Minute), concurrency(t, "more", 5, time.Minute), limit(t, "burst", "1/h", 10)
	for _, limits := range [][]domain.Limit{{held}, {burst, more, held}} {
		s, c := storeAndClient(t)
		for _, req := range everyOperation("bad", limits...) {
			if req.Op == domain.OpReset {
				continue // it deletes the set
			}
			require.NoError(t, c.FlushDB(t.Context()).Err())
			takeOne(t, s, "bad", 4, burst)
			if len(limits) > 1 {
				s.one(t, about("id", domain.OpTake, "bad", 1, more))
			}
			require.NoError(t, c.Set(t.Context(), setKey("bad", "held"), "x", 0).Err())
			before := everything(t, c)
			reqs := []ports.TakeRequest{about("a", domain.OpTake, "good", 1, limits...), req, about("b", domain.OpTake, "good", 1, limits...)}
			results := make([]ports.TakeResult, 3)
			s.TakeMany(t.Context(), reqs, results)
			require.ErrorIs(t, results[1].Err, ports.ErrCorrupt, req.Op)
			require.NoError(t, results[0].Err)
			require.NoError(t, results[2].Err)
			assert.Equal(t, domain.Credits(2), results[2].States[len(limits)-1].Amount)
			require.NoError(t, c.Del(t.Context(), script.RedisKey(key("good")), setKey("good", "held"), setKey("good", "more")).Err())
			assert.Equal(t, before, everything(t, c), "%v of %d limits left all as it was", req.Op, len(limits))
		}
	}
}

func TestPermits_aResetDeletesSetsOfAnotherType(t *testing.T) {
	held, more, burst := concurrency(t, "held", 5, time.Minute), concurrency(t, "more", 5, time.Minute), limit(t, "burst", "1/h", 10)
	for _, limits := range [][]domain.Limit{{held}, {more, held}, {burst, more, held}} {
		s, c := storeAndClient(t)
		s.one(t, about("id", domain.OpTake, "a", 1, more, burst))
		require.NoError(t, c.Set(t.Context(), setKey("a", "held"), "x", 0).Err())
		for range 2 {
			r := s.one(t, about("", domain.OpReset, "a", 0, limits...))
			for i := range limits {
				want := limits[i].Capacity()
				if limits[i].Name() == "more" {
					want-- // a reset ends no permit
				}
				assert.Equal(t, want, limits[i].Remaining(r.States[i]), limits[i].Name())
			}
		}
		assert.Equal(t, domain.Allowed, s.one(t, about("new", domain.OpTake, "a", 1, limits...)).Verdict)
		assert.Equal(t, []string{"new"}, c.ZRange(t.Context(), setKey("a", "held"), 0, -1).Val())
	}
}

func TestPermits_aHashOfAnotherTypeChangesNoPermit(t *testing.T) {
	s, c := storeAndClient(t)
	held, burst := concurrency(t, "held", 5, time.Minute), limit(t, "burst", "1/h", 10)
	s.one(t, about("id", domain.OpTake, "bad", 1, held))
	require.NoError(t, c.Set(t.Context(), script.RedisKey(key("bad")), "x", 0).Err())
	before := everything(t, c)
	for _, req := range everyOperation("bad", held, burst) {
		if req.Op == domain.OpReset {
			continue // it deletes what is there
		}
		require.ErrorIs(t, ports.Take(t.Context(), s, req).Err, ports.ErrCorrupt, req.Op)
		assert.Equal(t, before, everything(t, c), req.Op)
	}
	s.one(t, about("", domain.OpReset, "bad", 0, held, burst))
	assert.Equal(t, []string{"id"}, c.ZRange(t.Context(), setKey("bad", "held"), 0, -1).Val(), "a reset ends no permit")
}

// everything is the content of the database, with the expiries.
func everything(t *testing.T, c *redis.Client) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, k := range c.Keys(t.Context(), "*").Val() {
		dump, err := c.Dump(t.Context(), k).Result()
		require.NoError(t, err)
		all[k] = fmt.Sprintf("%q until %d", dump, c.PExpireTime(t.Context(), k).Val())
	}
	return all
}

func TestPermits_readingAndDenyingWriteNothing(t *testing.T) {
	s, setClock := withMovableClock(t)
	noon := domain.InstantOf(time.Date(2040, 1, 1, 12, 0, 0, 0, time.UTC))
	short, long := concurrency(t, "held", 2, time.Second), concurrency(t, "held", 2, time.Minute)
	setClock(noon)
	s.one(t, about("expired", domain.OpTake, "a", 1, short))
	setClock(noon.Add(time.Second / 2))
	s.one(t, about("short", domain.OpTake, "a", 1, long))
	setClock(noon.Add(2 * time.Second))
	s.one(t, about("long", domain.OpTake, "a", 1, long))
	require.NoError(t, s.client.ZAdd(t.Context(), setKey("a", "held"), redis.Z{Score: float64(noon), Member: "expired"}).Err())
	before := everything(t, s.client)
	for _, req := range []ports.TakeRequest{
		about("new", domain.OpTake, "a", 1, long),
		about("new", domain.OpTake, "a", 0, long),
		about("", domain.OpPeek, "a", 0, long),
		about("", domain.OpList, "a", 0, long),
		about("new", domain.OpRenew, "a", 0, long),
		about("new", domain.OpRelease, "a", 5, long),
		about("expired", domain.OpRenew, "a", 0, long),
		about("short", domain.OpCharge, "a", 1, long),
	} {
		r := s.one(t, req)
		assert.Equal(t, domain.State{Amount: 2, At: noon.Add(time.Minute + time.Second/2), TokenCredits: 1}, r.States[0], req.Op)
		assert.Equal(t, before, everything(t, s.client), "%v of %s", req.Op, req.Permit)
	}
}

func TestPermits_manyThatExpiredLeaveBitByBit(t *testing.T) {
	s, c := storeAndClient(t)
	held := concurrency(t, "held", 3, time.Minute)
	var old []redis.Z
	for i := range 2500 {
		old = append(old, redis.Z{Score: float64(i), Member: fmt.Sprint("old-", i)})
	}
	require.NoError(t, c.ZAdd(t.Context(), setKey("a", "held"), old...).Err())
	for i, left := range []int64{1501, 502, 3} {
		r := s.one(t, about(fmt.Sprint("new-", i), domain.OpTake, "a", 1, held))
		assert.Equal(t, domain.Allowed, r.Verdict)
		assert.Equal(t, domain.Credits(i+1), r.States[0].Amount)
		assert.Equal(t, left, c.ZCard(t.Context(), setKey("a", "held")).Val(), "a run must not block its server for long")
		assert.Positive(t, c.PTTL(t.Context(), setKey("a", "held")).Val())
	}
	assert.Equal(t, domain.Denied, s.one(t, about("last", domain.OpTake, "a", 1, held)).Verdict)
}

func TestPermits_whatAnotherProgramAddedCountsUntilItExpires(t *testing.T) {
	s, c := storeAndClient(t)
	held := concurrency(t, "held", 3, time.Minute)
	soon := float64(domain.InstantOf(time.Now().Add(time.Hour)))
	require.NoError(t, c.ZAdd(t.Context(), setKey("a", "held"),
		redis.Z{Score: soon + 0.5, Member: "half"}, redis.Z{Score: math.Inf(1), Member: ""}, redis.Z{Score: math.Inf(-1), Member: "past"},
	).Err())
	r := s.one(t, about("", domain.OpList, "a", 0, held))
	assert.Equal(t, domain.State{Amount: 2, At: domain.Instant(soon), TokenCredits: 1}, r.States[0])
	assert.Equal(t, []domain.Permit{{ID: "half", Expires: domain.Instant(soon)}, {ID: "", Expires: 1<<53 - 1}}, r.Permits[0])
	assert.Equal(t, domain.Allowed, s.one(t, about("mine", domain.OpTake, "a", 1, held)).Verdict)
	assert.Equal(t, domain.Denied, s.one(t, about("next", domain.OpTake, "a", 1, held)).Verdict)
	assert.Equal(t, domain.Allowed, s.one(t, about("half", domain.OpRelease, "a", 0, held)).Verdict)
}

func TestPermits_aPermitTakesLittleMemory(t *testing.T) {
	s, c := storeAndClient(t)
	id := domain.NewPermitID(strings.Repeat("r", 22), 1, domain.InstantOf(time.Now()))
	for _, limit := range []struct{ permits, first, each int64 }{{24, 256, 128}, {25, 1280, 192}} { // without and with an index
		held := concurrency(t, fmt.Sprint("held-", limit.permits), domain.Tokens(limit.permits), time.Minute)
		memory := func() int64 {
			used, err := c.MemoryUsage(t.Context(), setKey("192.0.2.123", held.Name())).Result()
			require.NoError(t, err)
			return used
		}
		s.one(t, about(id, domain.OpTake, "192.0.2.123", 1, held))
		first := memory()
		assert.LessOrEqual(t, first, limit.first, "a client that holds one")
		for i := range 10 {
			s.one(t, about(fmt.Sprint(id[1:], i), domain.OpTake, "192.0.2.123", 1, held))
		}
		assert.LessOrEqual(t, memory()-first, 10*limit.each)
	}
}
