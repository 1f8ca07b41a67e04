package redisstore

import (
	"context"
	"crypto/sha1" // the name by which Redis knows a script, no safeguard
	_ "embed"
	"encoding/hex"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

//go:embed take.lua
var takeSource string

// protocolVersion is the first argument of the script and the first element of its reply.
const protocolVersion = 1

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

// encode makes the command that decides the requests of these slots, in their order. It copies what it needs, so
// the requests may change when it has returned.
func (s *script) encode(reqs []ports.TakeRequest, slots []int) []any {
	var sets [][]domain.Limit
	setOf := make([]int, len(slots))
	for i, slot := range slots {
		setOf[i] = setIndex(&sets, reqs[slot].Limits)
	}
	args := make([]any, 0, 3+len(slots)*4+2+len(sets)*6)
	args = append(args, "evalsha", s.sha, len(slots))
	for _, slot := range slots {
		args = append(args, redisKey(reqs[slot].Key))
	}
	args = append(args, protocolVersion, len(sets))
	for _, limits := range sets {
		args = append(args, len(limits))
		for i := range limits {
			l := &limits[i]
			args = append(args, field(l), int64(l.Capacity()), int64(l.TokenCredits()), int64(l.TickCredits()), l.TickMicros())
		}
	}
	for i, slot := range slots {
		args = append(args, int(reqs[slot].Op), int64(reqs[slot].Cost), setOf[i]+1)
	}
	return args
}

// setIndex finds limits among the sets that are sent already, or adds them.
func setIndex(sets *[][]domain.Limit, limits []domain.Limit) int {
	for i, known := range *sets {
		if len(known) != len(limits) {
			continue
		}
		if &known[0] == &limits[0] || slices.Equal(known, limits) { // mostly they are the same slice
			return i
		}
	}
	*sets = append(*sets, limits)
	return len(*sets) - 1
}

// redisKey puts the text that decides the shard between braces, which is what Redis Cluster hashes, too.
func redisKey(key domain.BucketKey) string { return "velocity:{" + string(key) + "}" }

// field is the Hash field of a limit.
func field(l *domain.Limit) string { return string(l.Kind()) + ":" + l.Name() }

// run sends a command made by encode. A server that does not have the script has run nothing, so there, and only
// there, it is sent once more, with its source.
func (s *script) run(ctx context.Context, client *redis.Client, args []any) (any, error) {
	reply, err := process(ctx, client, args)
	if err != nil && scriptUnknown(err) {
		withSource := slices.Clone(args)
		withSource[0], withSource[1] = "eval", s.source
		return process(ctx, client, withSource)
	}
	return reply, err
}

func process(ctx context.Context, client *redis.Client, args []any) (any, error) {
	cmd := redis.NewCmd(ctx, args...)
	_ = client.Process(ctx, cmd) // Result returns the same error
	return cmd.Result()
}
