package grpcenvoy

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// quick gives every request the same answer, in the memory of the slots.
type quick struct{ status domain.LimitStatus }

func (quick) Decide(context.Context, policy.Request) (decision.Decision, error) {
	return decision.Decision{}, nil
}

func (q quick) DecideMany(_ context.Context, _ []policy.Request, answers []ports.Answer) {
	for i := range answers {
		d := &answers[i].Decision
		d.Outcome, d.LevelKnown, d.Limits = decision.OutcomeAllowed, true, append(d.Limits[:0], q.status)
	}
}

func (q quick) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	q.DecideMany(ctx, reqs, answers)
}

// BenchmarkShouldRateLimit measures the adapter without the transport and the decision.
func BenchmarkShouldRateLimit(b *testing.B) {
	file := filepath.Join(b.TempDir(), "rules.yaml")
	require.NoError(b, os.WriteFile(file, []byte("{domain: d, descriptors: [{key: k, rate_limit: {unit: second, requests_per_unit: 5}}]}"), 0o600))
	rules, err := envoyconfig.Open(file, envoyconfig.Options{OnStoreFailure: policy.FailOpen}, zap.NewNop())
	require.NoError(b, err)
	p := rules.Current().Find("d", []policy.DescriptorEntry{{Key: "k"}}).Policy
	s := newService(quick{p.Limits[0].Status(domain.State{}, 0, 1, 0, true)}, rules, envoyconfig.Options{}, zap.NewNop())
	request, err := proto.Marshal(&rlsv3.RateLimitRequest{Domain: "d", Descriptors: []*ratelimitv3.RateLimitDescriptor{
		{Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "k", Value: "client-000042"}}},
	}})
	require.NoError(b, err)
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		r := &rlsv3.RateLimitRequest{}
		if err := proto.Unmarshal(request, r); err != nil {
			b.Fatal(err)
		}
		response, err := s.ShouldRateLimit(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		if out, err = (proto.MarshalOptions{}).MarshalAppend(out[:0], response); err != nil {
			b.Fatal(err)
		}
	}
}
