package overrides

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// An override that expires tomorrow stays, though a server's clock was two days ahead for one poll.
func TestSweepTime_isNotAheadOfTheProcess(t *testing.T) {
	const now, day = domain.Instant(1_800_000_000_000_000), domain.Instant(24 * time.Hour / time.Microsecond)
	s := New(nil, ports.DefaultOverrideBounds)
	assert.Zero(t, s.sweepTime(now), "no server was read")
	s.complete(time.Now(), now-5)
	assert.Equal(t, now-5, s.sweepTime(now))
	s.complete(time.Now(), now+2*day)
	s.complete(time.Now(), now)
	assert.Equal(t, now, s.sweepTime(now))
}
