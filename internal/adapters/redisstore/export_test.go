package redisstore

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// What black-box tests need of the insides.

const (
	// ClockLine is the line of the shipped script that reads the clock. Tests replace it, and nothing else.
	ClockLine = "local time = call('TIME'); local now_us = time[1] * 1000000 + time[2]"
	// ClockKey holds the time for a store made by NewWithClockKey.
	ClockKey = "test:clock"
	// MaxGroups is the most groups in one run of the script.
	MaxGroups = maxGroups
)

// TakeSource is the shipped script.
func TakeSource() string { return takeSource }

// CanarySource is the script that looks at permissions.
func CanarySource() string { return canarySource }

// SourceWithArgumentClock is the script that takes the time from its last argument.
func SourceWithArgumentClock() string { return withClock("local now_us = tonumber(ARGV[#ARGV])") }

// NewWithClockKey makes a store whose script takes the time from a key of each server.
func NewWithClockKey(cfg Config) (*Store, error) {
	return newStore(cfg, newScript(withClock("local now_us = tonumber(call('GET', '"+ClockKey+"'))")))
}

func withClock(line string) string { return strings.Replace(takeSource, ClockLine, line, 1) }

// Encode is the command that decides all of reqs in one run of the script of that source.
func Encode(source string, reqs []ports.TakeRequest) []any {
	c, sha := &command{keys: make([]keyArgument, len(reqs))}, newScript(source).sha
	return c.encode("evalsha", &sha, groupsOf(reqs, nil))
}

// DecodeReply decodes the reply to what Encode made.
func DecodeReply(reply any, reqs []ports.TakeRequest, results []ports.TakeResult) error {
	groups := groupsOf(reqs, results)
	err := decodeReply(reply, groups)
	for i, g := range groups {
		results[i] = g.result
	}
	return err
}

func groupsOf(reqs []ports.TakeRequest, results []ports.TakeResult) []*group {
	groups := make([]*group, len(reqs))
	for i := range groups {
		groups[i] = &group{req: reqs[i]}
		if results != nil {
			groups[i].result = results[i]
		}
	}
	return groups
}

// RedisKey is where a group is kept.
func RedisKey(key domain.BucketKey) string {
	var k keyArgument
	k.set(key)
	return string(k.text)
}

// Failure is what an error means: its kind, whether nothing has run, and whether it counts for the breaker.
type Failure struct {
	Kind          ports.FailureKind
	NotRun, Trips bool
}

// Classify says what an error means.
func Classify(err error) Failure {
	f := classify(err)
	return Failure{f.kind, f.ran == notRun, f.trips}
}

// LeaveDeadConnection puts a connection that never came about into the pool of a client that is not used elsewhere.
func LeaveDeadConnection(t testing.TB, c *redis.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	slow := slowDial{cancel}
	c.AddHook(slow)
	if err := c.Ping(ctx).Err(); !errors.Is(err, context.Canceled) {
		t.Fatalf("the call was to be left: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); c.PoolStats().IdleConns == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no connection was left")
		}
	}
}

// slowDial leaves the call before its attempt to connect ends.
type slowDial struct{ leave context.CancelFunc }

func (d slowDial) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d.leave()
		time.Sleep(20 * time.Millisecond)
		return next(ctx, network, addr)
	}
}
func (slowDial) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (slowDial) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// DialError is a failure to connect, as the stores' clients return it.
func DialError(err error) error { return &dialError{err} }

// Hash and Mix64 are what placement is made of.
var (
	Hash  = hash
	Mix64 = mix64
)

// Place returns the index of the identity that owns text.
func Place(s Strategy, text string, identities []string) int {
	seeds := make([]uint64, len(identities))
	for i, id := range identities {
		seeds[i] = hash(id)
	}
	return s.place(text, seeds)
}

// ParseAddress returns the identity and the host:port of an entry of the shard list.
func ParseAddress(entry string) (identity, hostPort string, err error) {
	a, err := parseAddress(entry)
	return a.identity(), a.hostPort, err
}
