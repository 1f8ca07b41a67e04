// Package script is what runs on a Redis server: one script, which begins with take.lua and decides, and permissions.lua, which
// lists the commands that the user may not run. It encodes their arguments and decodes their replies.
package script

import (
	"context"
	"crypto/sha1" // the name by which Redis knows a script, no safeguard
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var (
	//go:embed take.lua
	takeSource string
	//go:embed kinds.lua
	kindsSource string
	//go:embed levels.lua
	levelsSource string
	//go:embed permits.lua
	permitsSource string
	//go:embed general.lua
	generalSource string
	//go:embed run.lua
	runSource string
)

// Source is the text of the script. Its files are parts of one chunk: each uses the locals of those before. The functions of
// kinds.lua, levels.lua and permits.lua are in the function of general.lua, so that a run that needs none of them creates one
// function only.
var Source = takeSource + strings.NewReplacer(
	"-- kinds.lua\n", kindsSource, "-- levels.lua\n", levelsSource, "-- permits.lua\n", permitsSource,
).Replace(generalSource) + runSource

// MaxGroups is the most groups in one run: a run blocks its server, and others wait.
const MaxGroups = 128

// Group is one request and its result. In a [Batch] it may stand for several equal requests.
type Group struct {
	Request ports.TakeRequest
	Result  ports.TakeResult

	next, last *Group // the equal requests after this one, and the last of them; nil if there are none
	further    int    // how many those are
	free       bool   // no group of a batch before it has its key
	kind       int    // in the command that was encoded last, counted from 1
	passed     int    // how many of all passed, as the script says
}

// Script is a script: its source, and the digest under which a server caches it.
type Script struct {
	source string
	sha    string
}

// New returns the script of this source.
func New(source string) *Script {
	sum := sha1.Sum([]byte(source))
	return &Script{source: source, sha: hex.EncodeToString(sum[:])}
}

// Processor carries out one command. *redis.Client and *redis.ClusterClient do.
type Processor interface {
	Process(ctx context.Context, cmd redis.Cmder) error
}

// Decide has one server decide the groups, in their order, in one run of the script. On an error, which names the server,
// the results mean nothing. now is the server's time as far as it is known; see ErrWrongPeriod. Decide sends a script a
// second time, with its source, only if the server did not know it: then nothing has run.
func (s *Script) Decide(ctx context.Context, client Processor, server string, groups []*Group, now domain.Instant) error {
	c := NewCommand()
	defer c.Release()
	reply, err := process(ctx, client, c.Encode(s, false, groups, now))
	if Unknown(err) {
		reply, err = process(ctx, client, c.Encode(s, true, groups, now))
	}
	if err != nil {
		return Unavailable(server, err)
	}
	return DecodeReply(reply, groups)
}

func process(ctx context.Context, client Processor, args []any) (any, error) {
	cmd := once{redis.NewCmd(ctx, args...)}
	_ = client.Process(ctx, cmd) // Result returns the same error
	return cmd.Result()
}

// once is a command that go-redis does not send again, whatever the MaxRetries of its client is: a script whose reply was
// lost may have run.
type once struct{ *redis.Cmd }

// NoRetry implements redis.Cmder.
func (once) NoRetry() bool { return true }

// Unknown reports whether err says that the server does not have the script, and so has run nothing.
func Unknown(err error) bool { return err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") }

// Moving reports whether err says that a node of a Cluster does not have all of a group's keys, because their slot is moving, and
// so has done nothing for the group.
func Moving(err error) bool {
	return err != nil && (redis.HasErrorPrefix(err, "TRYAGAIN") || redis.HasErrorPrefix(err, failure.EmptiedWhileMoving))
}

// ErrNoReply is the cause of a failure after the context of a call has ended, if a caller's client was used. The context's own error
// says that nothing was sent: go-redis returns it only while the call waits for a connection, but a hook of the client at any time.
var ErrNoReply = fmt.Errorf("no reply in time: %w", os.ErrDeadlineExceeded)

// Unavailable returns an error that wraps ports.ErrUnavailable and the cause, and says what the server may have done.
func Unavailable(server string, cause error) error {
	return fmt.Errorf("%w: %s, %w: %w", ports.ErrUnavailable, server, failure.Classify(cause).Effect, cause)
}

//go:embed permissions.lua
var permissionsSource string

// ErrPermissions says that the user of the settings lacks permissions that this program needs.
var ErrPermissions = errors.New("the ACL user lacks permissions")

// CheckPermissions returns an error that wraps ErrPermissions and names the commands that the user may not run on this key,
// or another error if that cannot be found out. Redis 7.0 itself does not name a command that a script may not run.
func CheckPermissions(ctx context.Context, client Processor, key clientkey.BucketKey) error {
	cmd := redis.NewStringSliceCmd(ctx, "eval", permissionsSource, 1, RedisKey(key))
	err := client.Process(ctx, cmd)
	switch {
	case err != nil && failure.Classify(err).Kind == failure.NoPerm:
		return fmt.Errorf("%w: %w", ErrPermissions, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ports.ErrUnavailable, err)
	case len(cmd.Val()) > 0:
		return fmt.Errorf("%w: it may not run %s on keys velocity:*", ErrPermissions, strings.Join(cmd.Val(), ", "))
	}
	return nil
}

// protocolVersion is the first argument of the script and the first element of its reply.
const protocolVersion = 5

// Command encodes one run of a script. Its memory is reused: arguments point into the Command, so that they need not be
// allocated one by one, and that the groups may be used again while a command is still being sent. Get one by [NewCommand].
type Command struct {
	args    []any
	keys    []keyArgument // of the groups
	more    []keyArgument // further Sorted Sets
	permits []string      // IDs of the groups
	sets    []limitSet
	kinds   []kind
	runs    []run
	runOf   []int    // index into runs, of each group in the order in which they came
	sorted  []*Group // the groups in that order
}

// limitSet is the limits of a kind. Groups of one policy mostly share one slice.
type limitSet struct {
	limits      []domain.Limit
	concurrency int // how many are of domain.KindConcurrency
	offset      int // index of the set's first argument, counted from the first argument of the first set
}

// arguments returns the number of the set's arguments: two lengths, three for each concurrency limit, and six for each other.
func (s *limitSet) arguments() int { return 2 + 6*len(s.limits) - 3*s.concurrency }

// kind is an operation with its cost and limits. Most groups of a batch are of one kind.
type kind struct {
	op   domain.Op
	cost domain.Tokens
	time int64 // in microseconds; see timeOf
	set  int   // index into Command.sets
}

var commands = sync.Pool{New: func() any { return &Command{keys: make([]keyArgument, MaxGroups)} }}

// NewCommand returns a command to encode into. Release it when its arguments have been sent.
func NewCommand() *Command { return commands.Get().(*Command) }

// Release gives the command's memory back. What Encode returned must not be used afterwards.
func (c *Command) Release() {
	clear(c.args)
	clear(c.permits)
	clear(c.sets)
	clear(c.sorted)
	c.args, c.sets = c.args[:0], c.sets[:0]
	commands.Put(c)
}

// Encode returns the arguments of the command that decides at most MaxGroups groups in their order: EVALSHA, or EVAL if the
// source is to be sent. now is the server's time as far as it is known: the arguments hold the periods of quotas at that
// time. They are valid until the next call of Encode or Release. Encode may change the order of groups that a [Batch] gathered,
// where that makes no difference; the reply is in the new order.
func (c *Command) Encode(s *Script, withSource bool, groups []*Group, now domain.Instant) []any {
	name, script := "evalsha", &s.sha
	if withSource {
		name, script = "eval", &s.source
	}
	c.sets, c.kinds = c.sets[:0], c.kinds[:0]
	for _, g := range groups {
		r := &g.Request
		g.kind = c.addKind(kind{r.Op, r.Cost, timeOf(r), c.addSet(r.Limits)})
	}
	c.arrange(groups)
	if len(c.kinds) == 1 && len(c.runs) == 1 && c.runs[0].times == 1 {
		c.runs = c.runs[:0] // such a run is not described
	}
	c.args = append(c.args[:0], name, script, len(groups))
	c.addKeys(groups)
	// The first set comes after the version, the number of kinds, four arguments for each, and three for each run. Lua counts
	// from 1.
	firstSet := 1 + 2 + 4*len(c.kinds) + 3*len(c.runs)
	c.args = append(c.args, protocolVersion, len(c.kinds))
	for _, k := range c.kinds {
		c.args = append(c.args, int(k.op), int64(k.cost), k.time, firstSet+c.sets[k.set].offset)
	}
	for _, r := range c.runs {
		c.args = append(c.args, r.kind, r.times, r.end+1)
	}
	permits := false
	for i := range c.sets {
		c.addLimits(&c.sets[i], now)
		permits = permits || c.sets[i].concurrency > 0
	}
	if permits {
		c.permits = slices.Grow(c.permits[:0], len(groups))[:len(groups)] // all at once: arguments point into it
		for i, g := range groups {
			c.permits[i] = g.Request.Permit
			c.args = append(c.args, &c.permits[i])
		}
		c.args = append(c.args, len(groups))
	}
	return c.args
}

// addKeys adds the key of each group: its Hash, or its first Sorted Set if it has nothing in a Hash. The other Sorted Sets
// follow. The script finds those by itself, but a node of a Redis Cluster that has only some of a group's keys, because their
// slot is moving, must not carry it out.
func (c *Command) addKeys(groups []*Group) {
	more := 0
	for i, g := range groups {
		set := &c.sets[c.kinds[g.kind-1].set]
		inSet := ""
		if set.concurrency == len(set.limits) {
			inSet = set.limits[0].Name()
			more--
		}
		more += set.concurrency
		c.keys[i].set(g.Request.Key, inSet)
		c.args = append(c.args, &c.keys[i])
	}
	if more == 0 {
		return
	}
	c.more = slices.Grow(c.more[:0], more)[:more] // all at once: arguments point into it
	c.args[2] = len(groups) + more
	for _, g := range groups {
		set := &c.sets[c.kinds[g.kind-1].set]
		for j := range set.limits {
			if set.limits[j].Kind() == domain.KindConcurrency && (j > 0 || set.concurrency < len(set.limits)) {
				more--
				c.more[more].set(g.Request.Key, set.limits[j].Name())
				c.args = append(c.args, &c.more[more])
			}
		}
	}
}

func (c *Command) addLimits(s *limitSet, now domain.Instant) {
	c.args = append(c.args, len(s.limits)-s.concurrency, s.concurrency)
	for i := range s.limits {
		if s.limits[i].Kind() != domain.KindConcurrency {
			c.addLimit(&s.limits[i], now)
		}
	}
	for i := range s.limits {
		if l := &s.limits[i]; l.Kind() == domain.KindConcurrency {
			c.args = append(c.args, l.Name(), int64(l.Capacity()), l.Concurrency().Lease().Microseconds())
		}
	}
}

// addLimit adds a bucket or a quota.
func (c *Command) addLimit(l *domain.Limit, now domain.Instant) {
	c.args = append(c.args, field(l), int64(l.Capacity()))
	if b := l.TokenBucket(); b != nil {
		c.args = append(c.args, int64(b.TokenCredits()), int64(b.TickCredits()), b.TickMicros())
	} else {
		start, end, nextEnd := l.Quota().Periods().At(now)
		c.args = append(c.args, int64(start), int64(end), int64(nextEnd))
	}
	c.args = append(c.args, int64(l.Cost()))
}

// timeOf returns how long a take may wait, or when the tokens of another operation were taken, where that makes a difference:
// to buckets, or to quotas. Else it is 0, so that requests have one kind.
func timeOf(r *ports.TakeRequest) int64 {
	has := func(k domain.Kind) bool {
		return slices.ContainsFunc(r.Limits, func(l domain.Limit) bool { return l.Kind() == k })
	}
	switch r.Op {
	case domain.OpTake:
		if r.MaxWait > 0 && has(domain.KindTokenBucket) {
			return r.MaxWait.Microseconds()
		}
	case domain.OpRefund, domain.OpCharge, domain.OpUndo, domain.OpRelease, domain.OpSettle:
		if has(domain.KindQuota) {
			return int64(r.TakenAt)
		}
	default:
	}
	return 0
}

// addKind adds a kind if it is missing, and returns its number, counted from 1.
func (c *Command) addKind(k kind) int {
	if i := slices.Index(c.kinds, k); i >= 0 {
		return i + 1
	}
	c.kinds = append(c.kinds, k)
	return len(c.kinds)
}

// addSet adds a set of limits if it is missing, and returns its index. So limits that repeat are sent once.
func (c *Command) addSet(limits []domain.Limit) int {
	offset := 0
	for i := range c.sets {
		if domain.EqualLimits(c.sets[i].limits, limits) {
			return i
		}
		offset += c.sets[i].arguments()
	}
	concurrency := 0
	for i := range limits {
		if limits[i].Kind() == domain.KindConcurrency {
			concurrency++
		}
	}
	c.sets = append(c.sets, limitSet{limits, concurrency, offset})
	return len(c.sets) - 1
}

// keyArgument is the name of a key in Redis. go-redis reads its bytes when it sends the command.
type keyArgument struct{ text []byte }

// set puts the group's key between braces: a Redis Cluster hashes that part alone. The key is that of the group's Hash or, if
// limit is not empty, of the Sorted Set of this limit's permits.
func (k *keyArgument) set(key clientkey.BucketKey, limit string) {
	k.text = append(k.text[:0], "velocity:{"...)
	k.text = append(k.text, key...)
	k.text = append(k.text, '}')
	if limit != "" {
		k.text = append(k.text, ":f:"...)
		k.text = append(k.text, limit...)
	}
}

// MarshalBinary implements encoding.BinaryMarshaler.
func (k *keyArgument) MarshalBinary() ([]byte, error) { return k.text, nil }

// String implements fmt.Stringer: go-redis hashes its result to find the slot of a key in a cluster.
func (k *keyArgument) String() string { return string(k.text) }

// RedisKey returns the name of a group's Hash in Redis.
func RedisKey(key clientkey.BucketKey) string { return PermitsKey(key, "") }

// PermitsKey returns the name of the Sorted Set of a limit's permits in Redis.
func PermitsKey(key clientkey.BucketKey, limit string) string {
	var k keyArgument
	k.set(key, limit)
	return k.String()
}

// field returns the Hash field of a limit.
func field(l *domain.Limit) string { return string(l.Kind()) + ":" + l.Name() }
