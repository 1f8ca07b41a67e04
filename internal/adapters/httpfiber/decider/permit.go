package decider

import (
	"runtime"

	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// End ends the permit that a request holds when its answer has ended. It is called after the handlers. fasthttp sends streams,
// and serves hijacked connections, after them, and closes the request's user values after that. Where another server uses the
// handlers it may not; then the permit ends when the memory of the request is collected.
func (d *Decider) End(ctx *fasthttp.RequestCtx, s *RequestScratch) {
	permit := s.Decision().Permit
	if permit == "" {
		return
	}
	if !ctx.Response.IsBodyStream() && !ctx.Hijacked() {
		d.cfg.Permits.End(permit, ports.Unsettled)
		return
	}
	held := &heldPermit{d.cfg.Permits, permit}
	runtime.AddCleanup(held, heldPermit.end, *held)
	ctx.SetUserValue(held, held) // a key of its own, since a request may pass several limits
}

// heldPermit is a permit that ends when it is closed. To end it twice does nothing more.
type heldPermit struct {
	permits ports.Permits
	permit  string
}

func (h heldPermit) end() { h.permits.End(h.permit, ports.Unsettled) }

// Close implements io.Closer.
func (h *heldPermit) Close() error {
	h.end()
	return nil
}
