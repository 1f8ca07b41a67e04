package httpfiber

import (
	"time"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
)

var headerRetryAfter = []byte("Retry-After")

// setRateLimitHeaders says on an answer what a limit decided. The names are set as they are written: fasthttp would spell
// them X-Ratelimit-Limit.
func setRateLimitHeaders(h *fasthttp.ResponseHeader, d *domain.Decision) {
	buf := getBuffer()
	*buf = d.HeaderFields(*buf, func(name string, value []byte) { h.SetCanonical(utils.UnsafeBytes(name), value) })
	putBuffer(buf)
}

// ceilMillis rounds a wait up; Never is -1.
func ceilMillis(d time.Duration) int64 {
	if d == domain.Never {
		return -1
	}
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
