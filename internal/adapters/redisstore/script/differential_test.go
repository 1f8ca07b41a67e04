package script_test

import (
	"errors"
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var (
	differentialSteps = flag.Int("differential.steps", 1_100_000, "random steps through domain and the script")
	differentialSeed  = flag.Uint64("differential.seed", 0, "seed of the random steps; 0 draws one and prints it")
)

func TestScript_shippedDiffersFromTestedInTheClockLineAlone(t *testing.T) {
	shipped := strings.Split(script.Source, "\n")
	tested := strings.Split(sourceWithArgumentClock, "\n")
	require.Len(t, tested, len(shipped))
	var differ []string
	for i := range shipped {
		if shipped[i] != tested[i] {
			differ = append(differ, shipped[i])
		}
	}
	assert.Equal(t, []string{clockLine}, differ)
	assert.Equal(t, 1, strings.Count(script.Source, "'TIME'"), "the clock is read once")
	assert.Equal(t, "#!lua", shipped[0], "without it a replica and a full server start the script")
}

// TestDifferential sends the same random steps through domain.Apply and through the script on a real Redis: every
// answer and every stored value must be the same to the last bit, every expiry as late as its limits need and at most
// the margin later, and every cached expiry true.
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
		"allowed", "denied", "debt exceeded", "take", "peek", "refund", "charge", "reset", "undo", "cost above capacity",
		"own cost", "own cost undone", "own cost left alone", "both kinds in a group", "quota", "period over", "period changed",
		"next period", "wrong period", "wrong period before", "taken in an earlier period", "quota near its largest debt",
		"clock back", "clock ahead of bucket", "limit changed", "limit joined", "same key twice", "below zero", "near 2^52", "ticks of 1 ms", "bound of 100 years",
		"expiry cached", "expiry kept",
		"release", "renew", "list", "permits alone", "permits and others", "two sets of permits", "no permit left", "permit expired",
		"permit taken again", "permits expire again", "expiry of permits kept", "expiry of permits postponed", "waits",
		"several takes", "several peeks", "several refunds", "several charges", "several undos", "several, of which some pass",
		"several of a wrong period", "denied, though it may wait", "release, held", "release, not held", "renew, held", "renew, not held", "list of some",
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
	model  map[clientkey.BucketKey]*modelHash
	sorted map[clientkey.BucketKey]map[string]*modelSet // by name of the limit
	steps  int
	seen   map[string]int
}

// modelHash is what the model holds in the place of a Redis Hash.
type modelHash struct {
	states               map[string]domain.State // by field
	writers              map[string]domain.Limit // the limits that stored them
	earliestMS, latestMS int64                   // of its expiry
	groupsMS             int64                   // earliestMS before the group of requests that is decided now
}

// modelRun is one run of the script with the answers that the model gives.
type modelRun struct {
	reqs  []ports.TakeRequest
	asked []*script.Group // one for each request
	sent  *script.Batch   // of those
	want  []ports.TakeResult
	cmd   *redis.Cmd
}

func newDifferential(t *testing.T, client *redis.Client, rnd *rand.Rand) *differential {
	d := &differential{
		t: t, client: client, rnd: rnd,
		source: sourceWithArgumentClock,
		now:    domain.InstantOf(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)),
		model:  make(map[clientkey.BucketKey]*modelHash),
		sorted: make(map[clientkey.BucketKey]map[string]*modelSet),
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
		d.batch(&runs[i])
		known := d.knownTime()
		runs[i].want = d.apply(&runs[i], known)
		args := append(script.NewCommand().Encode(script.New(d.source), false, runs[i].sent.Groups(), known), int64(d.now))
		runs[i].cmd = pipe.Do(d.t.Context(), args...)
	}
	_, _ = pipe.Exec(d.t.Context()) // each run's error is looked at below
	for i := range runs {
		d.compareAnswers(&runs[i])
	}
	d.compareStored()
}

// batch draws the requests of a run, as many as fit into it.
func (d *differential) batch(run *modelRun) {
	run.sent = new(script.Batch)
	for _, req := range d.randomRequests() {
		if run.sent.Space() == 0 {
			break
		}
		g := &script.Group{Request: req}
		run.sent.Add(g)
		run.reqs, run.asked = append(run.reqs, req), append(run.asked, g)
	}
}

func (d *differential) compareAnswers(run *modelRun) {
	d.steps += len(run.reqs)
	reply, err := run.cmd.Result()
	require.NoError(d.t, err)
	require.NoError(d.t, script.DecodeReply(reply, run.sent.Groups()))
	for _, g := range run.sent.Groups() {
		g.Settle()
		d.observeSeveral(g)
	}
	for i, g := range run.asked {
		if !sameResult(&run.want[i], &g.Result) {
			d.t.Errorf("request %d: %v of %d, taken at %d, from %s, limits %v:\nwant %+v\ngot  %+v",
				i, run.reqs[i].Op, run.reqs[i].Cost, run.reqs[i].TakenAt, run.reqs[i].Key, run.reqs[i].Limits, run.want[i], g.Result)
		}
	}
}

// observeSeveral looks at a group of several requests.
func (d *differential) observeSeveral(g *script.Group) {
	if g.Requests() == 1 {
		return
	}
	last := g
	for last.Next() != nil {
		last = last.Next()
	}
	d.count("several "+g.Request.Op.String()+"s", true)
	d.count("several, of which some pass", g.Result.Verdict != last.Result.Verdict)
	d.count("several of a wrong period", errors.Is(last.Result.Err, script.ErrWrongPeriod))
}

func sameResult(a, b *ports.TakeResult) bool {
	if !errors.Is(b.Err, a.Err) || a.Verdict != b.Verdict || a.Now != b.Now || len(a.States) != len(b.States) {
		return false
	}
	for i := range a.States {
		if a.States[i] != b.States[i] {
			return false
		}
	}
	return slices.EqualFunc(a.Permits, b.Permits, slices.Equal)
}

func (d *differential) compareStored() {
	d.plantDebt()
	pipe := d.client.Pipeline()
	hashes := make(map[clientkey.BucketKey]*redis.MapStringStringCmd)
	expiries := make(map[clientkey.BucketKey]*redis.DurationCmd)
	for k := range differKeys {
		name := differKey(k)
		hashes[name] = pipe.HGetAll(d.t.Context(), script.RedisKey(name))
		expiries[name] = pipe.PExpireTime(d.t.Context(), script.RedisKey(name))
	}
	_, err := pipe.Exec(d.t.Context())
	require.NoError(d.t, err)
	for name, h := range hashes {
		d.compareHash(name, h.Val(), expiries[name].Val())
	}
	d.compareSets()
}

func (d *differential) compareHash(name clientkey.BucketKey, stored map[string]string, expiry time.Duration) {
	m := d.model[name]
	if m == nil {
		require.Empty(d.t, stored, "what is stored for %s", name)
		return
	}
	want, got := map[string]string{}, map[string]string{}
	for field, s := range m.states {
		want[field] = storedText(field, s)
	}
	for field, value := range stored {
		state, cached := splitExpiry(d.t, field, value)
		got[field] = state
		require.LessOrEqual(d.t, cached, expiry.Milliseconds(), "the cached expiry in %s of %s", field, name)
		d.count("expiry cached", cached > 0)
	}
	require.Equal(d.t, want, got, "what is stored for %s", name)
	require.GreaterOrEqual(d.t, expiry.Milliseconds(), m.earliestMS, "the expiry of %s", name)
	require.LessOrEqual(d.t, expiry.Milliseconds(), m.latestMS, "the expiry of %s", name)
	d.count("expiry kept", expiry.Milliseconds() < m.latestMS)
}
