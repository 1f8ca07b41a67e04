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
	if !answersLater(ctx) {
		d.cfg.Permits.End(permit, ports.Unsettled)
		return
	}
	held := &heldPermit{d.cfg.Permits, permit}
	runtime.AddCleanup(held, heldPermit.end, *held)
	ctx.SetUserValue(held, held) // a key of its own, since a request may pass several limits
}

// answersLater reports whether the answer is sent, or the connection served, after the handlers.
func answersLater(ctx *fasthttp.RequestCtx) bool {
	return ctx.Response.IsBodyStream() || ctx.Hijacked()
}

// noPermit is an ID that no permit has: an undo must name one.
const noPermit = "none"

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
