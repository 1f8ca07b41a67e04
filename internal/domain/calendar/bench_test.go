package calendar_test

import (
	"testing"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func BenchmarkAt(b *testing.B) {
	const day = domain.Instant(86400_000_000)
	for _, c := range []struct {
		name, period, zone string
		move               domain.Instant
	}{
		{"cached", "month", "Europe/Berlin", 0},
		{"day", "day", "", 2 * day},
		{"day in a zone", "day", "Europe/Berlin", 2 * day},
		{"month in a zone", "month", "Europe/Berlin", 40 * day},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := schedule(b, c.period, c.zone, "")
			now := instant(b, "2026-01-15T12:00:00Z")
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.At(now + domain.Instant(i&1)*c.move)
			}
		})
	}
}
