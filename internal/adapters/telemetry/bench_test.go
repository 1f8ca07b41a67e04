package telemetry_test

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// counter counts what is written to it.
type counter struct{ bytes atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.bytes.Add(int64(len(p)))
	return len(p), nil
}

// BenchmarkDecided is what the log adds to a decision, for each setting: the time, and the bytes of its line, under the default
// policy and of a client with an address of 12 characters.
func BenchmarkDecided(b *testing.B) {
	for _, filter := range []telemetry.Decisions{
		telemetry.DecisionsAll, telemetry.DecisionsBlocked, telemetry.DecisionsNone,
	} {
		b.Run(string(filter), func(b *testing.B) {
			cfg := telemetry.Config{LogLevel: "info", LogDecisions: filter}
			var written counter
			log, err := telemetry.NewLogger(cfg, &written)
			require.NoError(b, err)
			decisions := telemetry.NewDecisionLog(cfg, log)
			req, d := policy.Request{ID: "0123456789abcdef0123456789abcdef"}, allowed()
			d.Client, d.Limits[0].Name = "203.0.113.77", "default"
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					decisions.Decided(&req, &d)
				}
			})
			require.NoError(b, log.Close())
			b.ReportMetric(float64(written.bytes.Load())/float64(b.N), "B/decision")
		})
	}
}
