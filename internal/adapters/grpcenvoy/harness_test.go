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
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// limiter decides by the arithmetic of package domain at a time that the test sets, for the policies that requests bring and
// for one policy of its own.
type limiter struct {
	mu      sync.Mutex
	own     *policy.Policy // matches requests without a policy; may be nil
	buckets map[clientkey.BucketKey]domain.State
	now     domain.Instant
	asked   []policy.Request
	before  func() // runs before each call; may be nil
	err     error
}

func newLimiter(own *policy.Policy) *limiter {
	return &limiter{own: own, buckets: map[clientkey.BucketKey]domain.State{}}
}

func (l *limiter) Decide(context.Context, policy.Request) (decision.Decision, error) {
	panic("the adapter must not call Decide")
}

func (l *limiter) DecideMany(_ context.Context, reqs []policy.Request, answers []ports.Answer) {
	if l.before != nil {
		l.before()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range reqs {
		answers[i] = l.decide(reqs[i])
	}
}

func (l *limiter) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	saved := map[clientkey.BucketKey]domain.State{}
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

func (l *limiter) decide(req policy.Request) ports.Answer {
	if l.err != nil {
		return ports.Answer{Err: l.err}
	}
	asked := req
	asked.Descriptor = slices.Clone(req.Descriptor) // the adapter's own memory
	l.asked = append(l.asked, asked)
	p := req.CallerPolicy
	if p == nil {
		p = l.own
	}
	if p == nil {
		return ports.Answer{Decision: decision.Decision{Outcome: decision.OutcomeAllowed}}
	}
	key := clientkey.NewBucketKey(p.Name, clientkey.Source{Kind: clientkey.SourceDescriptor}, p.Match.DescriptorValue(req.Descriptor))
	buckets := []domain.State{l.buckets[key]}
	verdict, _ := domain.Apply(domain.Operation{Op: req.Op, Cost: req.Cost}, p.Limits, buckets, nil, l.now)
	if req.Op != domain.OpPeek {
		l.buckets[key] = buckets[0]
	}
	d := decision.Decision{
		Outcome: decision.OutcomeDenied, Shadow: p.Mode == policy.ModeShadow, Policy: p.Name, LevelKnown: true, At: l.now,
		Limits: []domain.LimitStatus{p.Limits[0].Status(buckets[0], l.now, req.Cost, 0, verdict == domain.Allowed)},
	}
	if verdict == domain.Allowed {
		d.Outcome = decision.OutcomeAllowed
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

// start starts a server for the time of the test.
func start(t *testing.T, cfg grpcenvoy.Config, l ports.Limiter) (addr string, s *grpcenvoy.Server) {
	t.Helper()
	cfg.Addr, cfg.OnStoreFailure = "127.0.0.1:0", policy.FailOpen
	s, err := grpcenvoy.New(cfg, l, zap.NewNop())
	require.NoError(t, err)
	ln, err := s.Listen()
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // the test's own has ended
		cancel()
		_ = s.Shutdown(ctx) // closes connections that are still open
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

// service starts a server and returns a client of it.
func service(t *testing.T, l *limiter, descriptors string) rlsv3.RateLimitServiceClient {
	t.Helper()
	return serviceOf(t, grpcenvoy.Config{}, l, descriptors)
}

func serviceOf(t *testing.T, cfg grpcenvoy.Config, l *limiter, descriptors string) rlsv3.RateLimitServiceClient {
	t.Helper()
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
