package telemetry_test

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// BenchmarkDecided is what the log adds to a decision, for each setting.
func BenchmarkDecided(b *testing.B) {
	for _, filter := range []telemetry.Decisions{
		telemetry.DecisionsAll, telemetry.DecisionsBlocked, telemetry.DecisionsNone,
	} {
		b.Run(string(filter), func(b *testing.B) {
			cfg := telemetry.Config{LogLevel: "info", LogDecisions: filter}
			log, err := telemetry.NewLogger(cfg, io.Discard)
			require.NoError(b, err)
			decisions := telemetry.NewDecisionLog(cfg, log)
			req, d := policy.Request{ID: "0123456789abcdef"}, allowed()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					decisions.Decided(&req, &d)
				}
			})
			require.NoError(b, log.Close())
		})
	}
}
