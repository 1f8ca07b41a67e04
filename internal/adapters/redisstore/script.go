package redisstore

import (
	"context"
	"crypto/sha1" // the name by which Redis knows a script, no safeguard
	_ "embed"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

//go:embed take.lua
var takeSource string

// protocolVersion is the first argument of the script and the first element of its reply.
const protocolVersion = 2

// maxGroups is the most groups in one run: a run blocks its server, and others wait.
const maxGroups = 128

// script is a script by its source and by the digest under which a server caches it.
type script struct {
	source string
	sha    string
}

func newScript(source string) *script {
	sum := sha1.Sum([]byte(source))
	return &script{source: source, sha: hex.EncodeToString(sum[:])}
}

// processor carries out one command: a *redis.Client does.
type processor interface {
	Process(ctx context.Context, cmd redis.Cmder) error
}

// decide sends a batch to one server, whose name stands in errors.
func (s *script) decide(ctx context.Context, client processor, name string, groups []*group) error {
	reply, err := s.run(ctx, client, groups)
	if err != nil {
		return fmt.Errorf("%w: %s, %s: %w", ports.ErrUnavailable, name, classify(err).ran, err)
	}
	return decodeReply(reply, groups)
}

// run decides the groups in one run. A server that does not have the script has run nothing, so there, and only
// there, it is sent once more, with its source.
func (s *script) run(ctx context.Context, client processor, groups []*group) (any, error) {
	c := commands.Get().(*command)
	defer c.putBack()
	reply, err := process(ctx, client, c.encode("evalsha", &s.sha, groups))
	if err != nil && scriptUnknown(err) {
		return process(ctx, client, c.encode("eval", &s.source, groups))
	}
	return reply, err
}

func process(ctx context.Context, client processor, args []any) (any, error) {
	cmd := redis.NewCmd(ctx, args...)
	_ = client.Process(ctx, cmd) // Result returns the same error
	return cmd.Result()
}

// scriptUnknown reports whether the server does not have the script, and so has run nothing.
func scriptUnknown(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }

// command is the memory of one encoded command, used again by later ones. Its arguments point into it, where that
// keeps them from being allocated one by one.
type command struct {
	args   []any
	keys   []keyArgument
	sets   []limitSet
	kinds  []kind
	kindOf []int // of each group, counted from 1
}

// limitSet is what a kind is limited by: mostly one slice for all groups of a policy.
type limitSet struct {
	limits []domain.Limit
	offset int // of its arguments, from where those of the first set begin
}

// arguments is how many the set takes: its length, and five a limit.
func (s *limitSet) arguments() int { return 1 + 5*len(s.limits) }

// kind is what groups of a batch mostly have in common.
type kind struct {
	op   domain.Op
	cost domain.Tokens
	set  int // index
}

var commands = sync.Pool{New: func() any { return &command{keys: make([]keyArgument, maxGroups)} }}

func (c *command) putBack() {
	clear(c.args)
	clear(c.sets)
	c.args, c.sets = c.args[:0], c.sets[:0]
	commands.Put(c)
}

// encode makes the command that decides the groups in their order, at most maxGroups. It is valid until the next.
func (c *command) encode(name string, script *string, groups []*group) []any {
	c.args = append(c.args[:0], name, script, len(groups))
	c.sets, c.kinds, c.kindOf = c.sets[:0], c.kinds[:0], c.kindOf[:0]
	for i, g := range groups {
		c.keys[i].set(g.req.Key)
		c.args = append(c.args, &c.keys[i])
	}
	for _, g := range groups {
		c.kindOf = append(c.kindOf, c.addKind(kind{g.req.Op, g.req.Cost, c.addSet(g.req.Limits)}))
	}
	if len(c.kinds) == 1 {
		c.kindOf = c.kindOf[:0] // there is no need to say it
	}
	// The first set comes after the version, the number of kinds, three arguments for each, and each group's kind.
	// Lua counts from 1.
	firstSet := 1 + 2 + 3*len(c.kinds) + len(c.kindOf)
	c.args = append(c.args, protocolVersion, len(c.kinds))
	for _, k := range c.kinds {
		c.args = append(c.args, int(k.op), int64(k.cost), firstSet+c.sets[k.set].offset)
	}
	for _, k := range c.kindOf {
		c.args = append(c.args, k)
	}
	for _, s := range c.sets {
		c.args = append(c.args, len(s.limits))
		for i := range s.limits {
			l := &s.limits[i]
			c.args = append(c.args, field(l), int64(l.Capacity()), int64(l.TokenCredits()), int64(l.TickCredits()), l.TickMicros())
		}
	}
	return c.args
}

// addKind returns the number of a kind, counted from 1, adding it if it is not there yet.
func (c *command) addKind(k kind) int {
	if i := slices.Index(c.kinds, k); i >= 0 {
		return i + 1
	}
	c.kinds = append(c.kinds, k)
	return len(c.kinds)
}

// addSet returns the index of a limit set, adding it if it is not there yet: limits that repeat are sent once.
func (c *command) addSet(limits []domain.Limit) int {
	offset := 0
	for i := range c.sets {
		known := c.sets[i].limits
		if len(known) == len(limits) && (&known[0] == &limits[0] || slices.Equal(known, limits)) { // mostly the same slice
			return i
		}
		offset += c.sets[i].arguments()
	}
	c.sets = append(c.sets, limitSet{limits, offset})
	return len(c.sets) - 1
}

// keyArgument writes a group's key. go-redis asks it for bytes when it sends the command.
type keyArgument struct{ text []byte }

// set puts the text that decides the shard between braces, which is what Redis Cluster hashes, too.
func (k *keyArgument) set(key domain.BucketKey) {
	k.text = append(k.text[:0], "velocity:{"...)
	k.text = append(k.text, key...)
	k.text = append(k.text, '}')
}

// MarshalBinary implements encoding.BinaryMarshaler.
func (k *keyArgument) MarshalBinary() ([]byte, error) { return k.text, nil }

// field is the Hash field of a limit.
func field(l *domain.Limit) string { return string(l.Kind()) + ":" + l.Name() }
