package redisstore_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var (
	differentialSteps = flag.Int("differential.steps", 1_100_000, "random steps through domain and the script")
	differentialSeed  = flag.Uint64("differential.seed", 0, "seed of the random steps; 0 draws one and prints it")
)

func TestScript_shippedDiffersFromTestedInTheClockLineAlone(t *testing.T) {
	shipped := strings.Split(redisstore.TakeSource(), "\n")
	tested := strings.Split(redisstore.SourceWithArgumentClock(), "\n")
	require.Len(t, tested, len(shipped))
	var differ []string
	for i := range shipped {
		if shipped[i] != tested[i] {
			differ = append(differ, shipped[i])
		}
	}
	assert.Equal(t, []string{redisstore.ClockLine}, differ)
	assert.Equal(t, 1, strings.Count(redisstore.TakeSource(), "'TIME'"), "the clock is read once")
	assert.Equal(t, "#!lua", shipped[0], "without it a replica and a full server start the script")
}

// TestDifferential sends the same random steps through domain.Apply and through the script on a real Redis: every
// answer and every stored value must be the same to the last bit, every expiry as late as its limits need and at most
// the slack later, and every note of one true.
func TestDifferential(t *testing.T) {
	seed := *differentialSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -differential.seed=%d -differential.steps=%d", seed, *differentialSteps)
	server := redistest.Start(t)
	d := newDifferential(t, plainClient(t, server.Addr), rand.New(rand.NewPCG(seed, 1)))
	for d.steps < *differentialSteps {
		d.round()
		if t.Failed() {
			t.Fatalf("after %d steps", d.steps)
		}
	}
	t.Logf("%d steps agree: %v", d.steps, d.seen)
	for _, rare := range []string{
		"allowed", "denied", "debt exceeded", "take", "peek", "refund", "charge", "reset", "cost above capacity",
		"clock back", "clock ahead of bucket", "limit changed", "limit joined", "same key twice", "below zero", "near 2^52", "ticks of 1 ms", "bound of 100 years",
		"noted", "expiry kept",
	} {
		assert.NotZero(t, d.seen[rare], "no step was %q", rare)
	}
}

const (
	runsPerRound = 16
	differKeys   = 96
)

// differential holds both sides: the server, and a model that applies domain and stores as a store should.
type differential struct {
	t      *testing.T
	client *redis.Client
	rnd    *rand.Rand
	source string
	sets   [][]domain.Limit
	now    domain.Instant
	model  map[domain.BucketKey]*modelHash
	steps  int
	seen   map[string]int
}

// modelHash is what the model holds in the place of a Redis Hash.
type modelHash struct {
	buckets              map[string]domain.Bucket
	earliestMS, latestMS int64 // of its expiry
}

// modelRun is one run of the script with the answers that the model gives.
type modelRun struct {
	reqs []ports.TakeRequest
	want []ports.TakeResult
	cmd  *redis.Cmd
}

func newDifferential(t *testing.T, client *redis.Client, rnd *rand.Rand) *differential {
	d := &differential{
		t: t, client: client, rnd: rnd,
		source: redisstore.SourceWithArgumentClock(),
		now:    domain.InstantOf(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)),
		model:  make(map[domain.BucketKey]*modelHash),
		seen:   make(map[string]int),
	}
	require.NoError(t, client.ScriptLoad(t.Context(), d.source).Err())
	d.sets = edgeSets(t)
	for range 80 {
		d.sets = append(d.sets, d.randomSet())
	}
	return d
}

// round sends some runs in one pipeline, then compares all that is stored.
func (d *differential) round() {
	runs := make([]modelRun, runsPerRound)
	pipe := d.client.Pipeline()
	for i := range runs {
		d.moveClock()
		runs[i].reqs = d.randomRequests()
		runs[i].want = d.apply(runs[i].reqs)
		args := append(redisstore.Encode(d.source, runs[i].reqs), int64(d.now))
		runs[i].cmd = pipe.Do(d.t.Context(), args...)
	}
	_, _ = pipe.Exec(d.t.Context()) // each run's error is looked at below
	for i := range runs {
		d.compareAnswers(&runs[i])
	}
	d.compareStored()
}

func (d *differential) compareAnswers(run *modelRun) {
	d.steps += len(run.reqs)
	reply, err := run.cmd.Result()
	require.NoError(d.t, err)
	got := make([]ports.TakeResult, len(run.reqs))
	require.NoError(d.t, redisstore.DecodeReply(reply, run.reqs, got))
	for i := range got {
		if !sameResult(&run.want[i], &got[i]) {
			d.t.Errorf("group %d: %v of %d from %s, limits %+v:\nwant %+v\ngot  %+v",
				i, run.reqs[i].Op, run.reqs[i].Cost, run.reqs[i].Key, run.reqs[i].Limits, run.want[i], got[i])
		}
	}
}

func sameResult(a, b *ports.TakeResult) bool {
	if b.Err != nil || a.Verdict != b.Verdict || a.Now != b.Now || len(a.Buckets) != len(b.Buckets) {
		return false
	}
	for i := range a.Buckets {
		if a.Buckets[i] != b.Buckets[i] {
			return false
		}
	}
	return true
}

func (d *differential) compareStored() {
	pipe := d.client.Pipeline()
	hashes := make(map[domain.BucketKey]*redis.MapStringStringCmd)
	expiries := make(map[domain.BucketKey]*redis.DurationCmd)
	for k := range differKeys {
		name := differKey(k)
		hashes[name] = pipe.HGetAll(d.t.Context(), redisstore.RedisKey(name))
		expiries[name] = pipe.PExpireTime(d.t.Context(), redisstore.RedisKey(name))
	}
	_, err := pipe.Exec(d.t.Context())
	require.NoError(d.t, err)
	for name, h := range hashes {
		d.compareHash(name, h.Val(), expiries[name].Val())
	}
}

func (d *differential) compareHash(name domain.BucketKey, stored map[string]string, expiry time.Duration) {
	m := d.model[name]
	if m == nil {
		require.Empty(d.t, stored, "what is stored for %s", name)
		return
	}
	want, got := map[string]string{}, map[string]string{}
	for limit, b := range m.buckets {
		want["b:"+limit] = fmt.Sprintf("%d:%d:%d", b.Credits, b.At, b.TokenCredits)
	}
	for field, value := range stored {
		bucket, note := splitNote(d.t, value)
		got[field] = bucket
		require.LessOrEqual(d.t, note, expiry.Milliseconds(), "the note in %s of %s", field, name)
		d.count("noted", note > 0)
	}
	require.Equal(d.t, want, got, "what is stored for %s", name)
	require.GreaterOrEqual(d.t, expiry.Milliseconds(), m.earliestMS, "the expiry of %s", name)
	require.LessOrEqual(d.t, expiry.Milliseconds(), m.latestMS, "the expiry of %s", name)
	d.count("expiry kept", expiry.Milliseconds() < m.latestMS)
}

// apply is the model of one run.
func (d *differential) apply(reqs []ports.TakeRequest) []ports.TakeResult {
	want := make([]ports.TakeResult, len(reqs))
	touched := make(map[domain.BucketKey]bool)
	for i := range reqs {
		req := &reqs[i]
		d.count("same key twice", touched[req.Key])
		touched[req.Key] = true
		buckets := d.stored(req)
		verdict, write := domain.Apply(req.Op, req.Cost, req.Limits, buckets, d.now)
		switch {
		case req.Op == domain.OpReset:
			d.forget(req)
		case write:
			d.store(req, buckets)
		}
		want[i] = ports.TakeResult{Verdict: verdict, Now: d.now, Buckets: buckets}
		d.observe(req, verdict, buckets)
	}
	return want
}

func (d *differential) stored(req *ports.TakeRequest) []domain.Bucket {
	buckets := make([]domain.Bucket, len(req.Limits))
	m := d.model[req.Key]
	if m == nil {
		return buckets
	}
	for i := range req.Limits {
		b, ok := m.buckets[req.Limits[i].Name()]
		buckets[i] = b
		d.count("limit changed", ok && b.TokenCredits != req.Limits[i].TokenCredits())
		d.count("clock ahead of bucket", ok && b.At > d.now)
		d.count("limit joined", !ok)
	}
	return buckets
}

// store keeps the buckets. The expiry of a Hash rises only.
func (d *differential) store(req *ports.TakeRequest, buckets []domain.Bucket) {
	m := d.model[req.Key]
	if m == nil {
		m = &modelHash{buckets: make(map[string]domain.Bucket)}
		d.model[req.Key] = m
	}
	for i := range buckets {
		m.buckets[req.Limits[i].Name()] = buckets[i]
	}
	earliest, latest := expiryBounds(req.Limits, buckets)
	m.earliestMS = max(m.earliestMS, earliest)
	m.latestMS = max(m.latestMS, latest)
}

func (d *differential) forget(req *ports.TakeRequest) {
	m := d.model[req.Key]
	if m == nil {
		return
	}
	for i := range req.Limits {
		delete(m.buckets, req.Limits[i].Name())
	}
	if len(m.buckets) == 0 {
		delete(d.model, req.Key)
	}
}

func (d *differential) count(what string, happened bool) {
	if happened {
		d.seen[what]++
	}
}

func (d *differential) observe(req *ports.TakeRequest, verdict domain.Verdict, buckets []domain.Bucket) {
	d.seen[[]string{"denied", "allowed", "debt exceeded"}[verdict]]++
	d.seen[req.Op.String()]++
	for i := range buckets {
		d.count("below zero", buckets[i].Credits < 0)
		d.count("near 2^52", max(buckets[i].Credits, -buckets[i].Credits) > domain.MaxCredits-domain.MaxCredits/1024)
		ms := req.Limits[i].TickMicros() == 1000
		d.count("ticks of 1 ms", ms)
		d.count("bound of 100 years", ms && len(buckets) == 1 && verdict == domain.DebtExceeded && req.Limits[i].TickCredits() < 1000)
		d.count("cost above capacity", req.Op == domain.OpTake && req.Cost > req.Limits[i].Capacity())
	}
}
