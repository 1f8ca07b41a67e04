package grpcenvoy_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// limiter is a small real one: buckets of the domain's arithmetic, at a time that stands still, for the policies that
// requests bring, and for one policy of its own.
type limiter struct {
	mu      sync.Mutex
	own     *domain.Policy // matches requests that bring none; nil: nothing does
	buckets map[domain.BucketKey]domain.Bucket
	asked   []domain.Request
	before  func() // runs before each call; nil: nothing
	err     error
}

func newLimiter(own *domain.Policy) *limiter {
	return &limiter{own: own, buckets: map[domain.BucketKey]domain.Bucket{}}
}

func (l *limiter) Decide(context.Context, domain.Request) (domain.Decision, error) {
	panic("the door asks for slots")
}

func (l *limiter) DecideMany(_ context.Context, reqs []domain.Request, answers []ports.Answer) {
	if l.before != nil {
		l.before()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range reqs {
		answers[i] = l.decide(reqs[i])
	}
}

func (l *limiter) DecideTogether(ctx context.Context, reqs []domain.Request, answers []ports.Answer) {
	saved := map[domain.BucketKey]domain.Bucket{}
	for k, b := range l.buckets {
		saved[k] = b
	}
	l.DecideMany(ctx, reqs, answers)
	for i := range answers {
		if !answers[i].Decision.Allowed() {
			l.buckets = saved
		}
	}
}

func (l *limiter) decide(req domain.Request) ports.Answer {
	if l.err != nil {
		return ports.Answer{Err: l.err}
	}
	asked := req
	asked.Descriptor = slices.Clone(req.Descriptor) // the door's own memory
	l.asked = append(l.asked, asked)
	policy := req.Own
	if policy == nil {
		policy = l.own
	}
	if policy == nil {
		return ports.Answer{Decision: domain.Decision{Outcome: domain.OutcomeAllowed}}
	}
	key := domain.NewBucketKey(policy.Name, domain.KeySource{Kind: domain.SourceDescriptor}, policy.Match.DescriptorValue(req.Descriptor))
	buckets := []domain.Bucket{l.buckets[key]}
	verdict, _ := domain.Apply(req.Op, req.Cost, policy.Limits, buckets, 0)
	if req.Op != domain.OpPeek {
		l.buckets[key] = buckets[0]
	}
	d := domain.Decision{
		Outcome: domain.OutcomeDenied, Shadow: policy.Mode == domain.ModeShadow, Policy: policy.Name, LevelKnown: true,
		Limits: []domain.LimitStatus{policy.Limits[0].Status(buckets[0], 0, req.Cost, verdict == domain.Allowed)},
	}
	if verdict == domain.Allowed {
		d.Outcome = domain.OutcomeAllowed
	}
	return ports.Answer{Decision: d}
}

// rulesFile writes a configuration of the domain "edge".
func rulesFile(t *testing.T, descriptors string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(file, []byte("domain: edge\ndescriptors:\n"+descriptors), 0o600))
	return file
}

// start serves until the test ends.
func start(t *testing.T, cfg grpcenvoy.Config, l ports.Limiter) (addr string, s *grpcenvoy.Server) {
	t.Helper()
	cfg.Addr, cfg.OnStoreFailure = "127.0.0.1:0", domain.FailOpen
	s, err := grpcenvoy.New(cfg, l, zap.NewNop())
	require.NoError(t, err)
	ln, err := s.Listen()
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // the test's own has ended
		cancel()
		_ = s.Shutdown(ctx) // cut off, if it has not been ended
		assert.NoError(t, <-served)
	})
	return ln.Addr().String(), s
}

func dial(t *testing.T, addr string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	if len(options) == 0 {
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	conn, err := grpc.NewClient(addr, options...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// service starts a door and returns a client of it.
func service(t *testing.T, l *limiter, descriptors string) rlsv3.RateLimitServiceClient {
	t.Helper()
	cfg := grpcenvoy.Config{}
	if descriptors != "" {
		cfg.RulesPath = rulesFile(t, descriptors)
	}
	addr, _ := start(t, cfg, l)
	return rlsv3.NewRateLimitServiceClient(dial(t, addr))
}

// descriptor reads "key=value, key=value".
func descriptor(s string) *ratelimitv3.RateLimitDescriptor {
	d := &ratelimitv3.RateLimitDescriptor{}
	for part := range strings.SplitSeq(s, ", ") {
		key, value, _ := strings.Cut(part, "=")
		d.Entries = append(d.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
	}
	return d
}

// request asks for descriptors of the domain "edge".
func request(descriptors ...*ratelimitv3.RateLimitDescriptor) *rlsv3.RateLimitRequest {
	return &rlsv3.RateLimitRequest{Domain: "edge", Descriptors: descriptors}
}

// ask sends a request and returns the codes: of the whole, then of each descriptor.
func ask(t *testing.T, c rlsv3.RateLimitServiceClient, r *rlsv3.RateLimitRequest) (string, *rlsv3.RateLimitResponse) {
	t.Helper()
	response, err := c.ShouldRateLimit(t.Context(), r)
	require.NoError(t, err)
	text := response.GetOverallCode().String() + ":"
	for _, s := range response.GetStatuses() {
		text += " " + s.GetCode().String()
	}
	return text, response
}
