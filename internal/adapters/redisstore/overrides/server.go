package overrides

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Key is the Hash that holds all overrides. No bucket has such a key: those have a colon between the braces.
const Key = "velocity:{overrides}"

var (
	//go:embed read.lua
	readSource string
	//go:embed write.lua
	writeSource string
	//go:embed correct.lua
	correctSource string

	readScript    = redis.NewScript(readSource)
	addScript     = redis.NewScript("#!lua\n" + writeSource)
	endScript     = redis.NewScript("#!lua flags=allow-oom\n" + writeSource) // an end is shorter than what it replaces
	correctScript = redis.NewScript(correctSource)
)

// The operations of write.lua.
const (
	opPut  = "put"
	opAdd  = "add"
	opDrop = "drop"
)

const (
	replyHeader = 8 // elements of read.lua's reply before the changes
	fullReply   = "full"
	storedReply = "ok"
)

// Server is one shard, or a Redis Cluster.
type Server struct {
	// Name is safe to show: shard-0.
	Name string
	// Client is closed with the store.
	Client redis.UniversalClient
}

// state is what read.lua returns.
type state struct {
	now     domain.Instant
	number  int64 // of the last change on the server
	stats   override.Stats
	stored  string // the text of the entry that was asked for, or ""
	to      int64  // the last of the changes; -1: the changes are not known one by one
	changes []override.Entry
}

func (s *Server) unavailable(err error) error { return script.Unavailable(s.Name, err) }

// read asks for at most most changes after one, and for the entry of a key unless that is empty.
func (s *Server) read(ctx context.Context, after int64, most int, key clientkey.BucketKey) (state, error) {
	reply, err := readScript.Run(ctx, s.Client, []string{Key}, after, most, string(key)).StringSlice()
	if err != nil {
		return state{}, s.failed(ctx, err)
	}
	st, err := decode(reply)
	if err != nil {
		return state{}, s.unavailable(err)
	}
	return st, nil
}

// failed has a Cluster read its table of slots again: a primary that died does not say which node took its place.
func (s *Server) failed(ctx context.Context, err error) error {
	if cluster, ok := s.Client.(*redis.ClusterClient); ok {
		cluster.ReloadState(ctx)
	}
	return s.unavailable(err)
}

func decode(reply []string) (state, error) {
	if len(reply) < replyHeader || len(reply)%2 != 0 {
		return state{}, fmt.Errorf("a reply of %d elements", len(reply))
	}
	var numbers [replyHeader]int64
	for i, text := range reply[:replyHeader] {
		if i == 6 { // a text
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 && i != replyHeader-1 {
			return state{}, fmt.Errorf("element %d of a reply is not a number", i)
		}
		numbers[i] = n
	}
	st := state{
		now: domain.Instant(numbers[0]), number: numbers[1], stored: reply[6], to: numbers[7],
		stats: override.Stats{Sum: uint64(numbers[2]), Live: int(numbers[3]), Entries: int(numbers[4]), Bytes: int(numbers[5])},
	}
	for i := replyHeader; i < len(reply); i += 2 {
		if e, err := override.ParseEntry(clientkey.BucketKey(reply[i]), reply[i+1]); err == nil {
			st.changes = append(st.changes, e)
		}
	}
	return st, nil
}

// write runs write.lua, and returns its reply. Its first entries may have been stored if there is an error.
func (s *Server) write(ctx context.Context, op string, bounds ports.OverrideBounds, entries ...override.Entry) ([]string, error) {
	args := make([]any, 0, 4+2*len(entries))
	args = append(args, op, bounds.Live, bounds.Entries, bounds.Bytes)
	run := endScript
	for i := range entries {
		args = append(args, string(entries[i].Key), entries[i].Text())
		if !entries[i].Ended && op != opDrop {
			run = addScript
		}
	}
	reply, err := run.Run(ctx, s.Client, []string{Key}, args...).StringSlice()
	if err != nil {
		if failure.Classify(err).Kind == failure.OOM {
			return nil, fmt.Errorf("%w: %s has no memory left", ports.ErrOverridesFull, s.Name)
		}
		return nil, s.failed(ctx, err)
	}
	if len(reply) != len(entries) {
		return nil, s.unavailable(fmt.Errorf("a reply of %d elements", len(reply)))
	}
	return reply, nil
}

// correct replaces the counts of a server whose last change has this number.
func (s *Server) correct(ctx context.Context, number int64, stats override.Stats) error {
	err := correctScript.Run(ctx, s.Client, []string{Key}, number, stats.Sum, stats.Live, stats.Entries, stats.Bytes).Err()
	if err != nil {
		return s.failed(ctx, err)
	}
	return nil
}

// scanPage is about how many entries a page of a scan has.
const scanPage = 500

// scan calls f for all entries of the server, some of them perhaps twice.
func (s *Server) scan(ctx context.Context, f func([]override.Entry)) error {
	var cursor uint64
	for {
		pairs, next, err := s.Client.HScan(ctx, Key, cursor, "", scanPage).Result()
		if err != nil {
			return s.failed(ctx, err)
		}
		var entries []override.Entry
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == "=" || strings.HasPrefix(pairs[i], "#") {
				continue
			}
			if e, err := override.ParseEntry(clientkey.BucketKey(pairs[i]), pairs[i+1]); err == nil {
				entries = append(entries, e)
			}
		}
		f(entries)
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
