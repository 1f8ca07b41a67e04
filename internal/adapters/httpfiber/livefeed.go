package httpfiber

import (
	"bufio"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// liveInterval is how often viewers are told, and liveProbe how long a shard may take to show that it lives: one
	// that dies is seen within the sum.
	liveInterval = time.Second
	liveProbe    = 500 * time.Millisecond
	maxViewers   = 16
	liveClients  = 8 // of each kind, per policy
)

var errTooManyViewers = errors.New("too many viewers of the live page")

// LiveSources is what the live page shows.
type LiveSources struct {
	Monitor ports.Monitor
	Top     ports.TopSource
	Health  ports.HealthChecker
	// Stats is nil for a store without servers.
	Stats   ports.StatsSource
	Version string
}

// liveFeed tells every viewer once a second how the service is: server-sent events at /v1/live. While nobody looks it
// does nothing.
type liveFeed struct {
	sources LiveSources
	state   func([]ports.ShardHealth) string
	log     *zap.Logger

	mu      sync.Mutex
	viewers map[chan []byte]struct{}
	cancel  context.CancelFunc // ends the goroutine; nil while there is none
	last    []byte             // event, while the goroutine runs
	running sync.WaitGroup
	closed  bool
}

// stream answers with events until the viewer leaves or the service stops.
func (f *liveFeed) stream(c *fiber.Ctx) error {
	events, err := f.join()
	if err != nil {
		return err
	}
	ctx := c.Context()
	conn := ctx.Conn()
	ctx.Response.Header.Set(fiber.HeaderContentType, "text/event-stream")
	ctx.Response.Header.Set(fiber.HeaderCacheControl, "no-store")
	ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
		defer f.leave(events)
		for event := range events {
			// The server's deadline is for whole answers; this one has no end.
			if conn.SetWriteDeadline(time.Now().Add(adminTimeout)) != nil {
				return
			}
			_, _ = w.Write(event) // Flush tells
			if w.Flush() != nil {
				return
			}
		}
	})
	return nil
}

// join begins a viewer's events. The channel is closed when the service stops.
func (f *liveFeed) join() (chan []byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || len(f.viewers) >= maxViewers {
		return nil, errTooManyViewers
	}
	events := make(chan []byte, 1)
	f.viewers[events] = struct{}{}
	switch {
	case f.cancel == nil:
		ctx, cancel := context.WithCancel(context.Background())
		f.cancel, f.last = cancel, nil
		f.running.Go(func() { f.run(ctx) })
	case f.last != nil:
		events <- f.last // nobody waits a second for the first look
	}
	return events, nil
}

func (f *liveFeed) leave(events chan []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.viewers, events)
	if len(f.viewers) == 0 && f.cancel != nil {
		f.cancel()
		f.cancel = nil
	}
}

// close ends every stream.
func (f *liveFeed) close() {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		for events := range f.viewers {
			close(events)
		}
		clear(f.viewers)
		if f.cancel != nil {
			f.cancel()
			f.cancel = nil
		}
	}
	f.mu.Unlock()
	f.running.Wait()
}

func (f *liveFeed) run(ctx context.Context) {
	ticker := time.NewTicker(liveInterval)
	defer ticker.Stop()
	for {
		event := f.event(ctx)
		f.tell(ctx, event)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// tell leaves out a viewer that has not taken the last event yet.
func (f *liveFeed) tell(ctx context.Context, event []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return // those who look now are another goroutine's
	}
	f.last = event
	for events := range f.viewers {
		select {
		case events <- event:
		default:
		}
	}
}

func (f *liveFeed) event(ctx context.Context) []byte {
	ctx, cancel := context.WithTimeout(ctx, liveProbe)
	defer cancel()
	body, err := json.Marshal(f.snapshot(f.sources.Health.CheckHealth(ctx)), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		f.log.Error("The live page cannot be told", zap.Error(err))
		return []byte(": nothing\n\n")
	}
	return append(append([]byte("data: "), body...), "\n\n"...) // JSON here has no line breaks
}
