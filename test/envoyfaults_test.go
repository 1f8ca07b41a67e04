package test

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// Envoy lets a request pass whose call ends with an error. So no call that took tokens, or that was denied, ends with one,
// whichever of its calls of the script is lost: the takes, the refund of what was taken beside a denial, or a refund that the
// request asks for.
func TestEnvoy_noErrorHidesADecision(t *testing.T) {
	t.Run("buckets", func(t *testing.T) { noErrorHidesADecision(t, "bucket") })
	t.Run("quotas", func(t *testing.T) { noErrorHidesADecision(t, "quota") })
}

func noErrorHidesADecision(t *testing.T, limits string) {
	proxy := redistest.StartProxy(t, redistest.Start(t).Addr)
	_, e := startEnvoyService(t, harness.Settings{
		"REDIS_ADDR": proxy.Addr, "VELOCITY_ON_STORE_FAILURE": "open", "VELOCITY_SHORTCUT_MAX_ENTRIES": "0",
		"VELOCITY_ENVOY_LIMITS": limits,
		"VELOCITY_ENVOY_CONFIG": harness.WriteFile(t, "rules.yaml", `
domain: edge
descriptors:
  - {key: take, rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: over, rate_limit: {unit: year, requests_per_unit: 1}}
  - {key: back, rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: peek, rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: zero, rate_limit: {unit: year, requests_per_unit: 0}}
`),
	})
	kinds := []string{"take", "over", "back", "peek", "zero"}
	for set := 1; set < 1<<len(kinds); set++ {
		for lost := range 4 { // which answer of the script; 3 loses none
			client := fmt.Sprintf("%d-%d", set, lost)
			r := &rlsv3.RateLimitRequest{Domain: "edge"}
			has := map[string]bool{}
			for i, kind := range kinds {
				if has[kind] = set&(1<<i) != 0; has[kind] {
					r.Descriptors = append(r.Descriptors, faultDescriptor(kind, client))
				}
			}
			name := fmt.Sprintf("%v, answer %d lost", r.GetDescriptors(), lost)

			var answer atomic.Int64
			proxy.TamperWithEvery(1, func(a []byte) ([]byte, bool) {
				// Seven elements answer the check of the store at the start, which may still be under way.
				if check := bytes.HasPrefix(a, []byte("*7\r\n")); !check && answer.Add(1) == int64(lost+1) {
					return nil, false
				}
				return a, true
			})
			response, err := e.rls.ShouldRateLimit(t.Context(), r)
			proxy.Relay()

			denied := has["zero"] || has["over"] && lost != 0 // a take whose answer is lost passes, by the failure mode
			onlyRefund := has["back"] && !has["take"] && !has["over"] && !has["peek"] && !has["zero"]
			if onlyRefund && lost == 0 {
				require.ErrorContains(t, err, "the store does not answer", name)
			} else {
				require.NoError(t, err, name)
				assert.Equal(t, denied, response.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT, name)
			}

			look := faultDescriptor("peek", client)
			look.Entries[0].Key = "take"
			for range 2 { // twice, so that the circuit breaker stays closed
				response, err = e.rls.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{
					Domain: "edge", Descriptors: []*ratelimitv3.RateLimitDescriptor{look},
				})
				require.NoError(t, err)
			}
			left := response.GetStatuses()[0].GetLimitRemaining()
			switch {
			case !has["take"] || has["zero"], denied && lost == 3:
				assert.EqualValues(t, 5, left, "a denial takes nothing: %s", name)
			case !denied:
				assert.EqualValues(t, 4, left, name)
			}
		}
	}
}

// faultDescriptor takes, of "over" more than there is, refunds, or looks.
func faultDescriptor(kind, client string) *ratelimitv3.RateLimitDescriptor {
	d := &ratelimitv3.RateLimitDescriptor{Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: kind, Value: client}}}
	switch kind {
	case "over":
		d.HitsAddend = wrapperspb.UInt64(2)
	case "back":
		d.IsNegativeHits = true
	case "peek":
		d.HitsAddend = wrapperspb.UInt64(0)
	}
	return d
}
