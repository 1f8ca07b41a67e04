package admin

import (
	"bufio"
	"context"
	"embed"
	"io/fs"
	"path"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

const (
	// liveInterval is the time between events, and liveProbe the time for a shard to answer. A shard that fails is
	// shown within the sum of both.
	liveInterval = time.Second
	liveProbe    = 500 * time.Millisecond
	maxViewers   = 16
	liveClients  = 8 // of each kind, per policy
)

var errTooManyViewers error = problem.Input(problem.ErrBusy, "", "too many viewers of the live page")

// LiveSources is what the live page shows.
type LiveSources struct {
	Monitor ports.Monitor
	Top     ports.TopSource
	Health  ports.HealthChecker
	// Stats is nil for a store that has no servers.
	Stats   ports.StatsSource
	Version string
}

// liveFeed sends every viewer the state of the service once a second: server-sent events at /v1/live. Without viewers it
// does nothing.
type liveFeed struct {
	sources   LiveSources
	overrides ports.Overrides // nil if there are none at run time
	state     func([]ports.ShardHealth) string
	log       *zap.Logger

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
			// The server's write deadline is for a whole answer, and this answer does not end.
			if conn.SetWriteDeadline(time.Now().Add(timeout)) != nil {
				return
			}
			_, _ = w.Write(event) // Flush returns its error
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
		events <- f.last // so that the viewer does not wait a second for its first event
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
		f.send(ctx, event)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// send skips a viewer that has not read the last event yet.
func (f *liveFeed) send(ctx context.Context, event []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return // the viewers belong to another run by now
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
		f.log.Error("The event of the live page cannot be written", zap.Error(err))
		return []byte(": nothing\n\n")
	}
	return append(append([]byte("data: "), body...), "\n\n"...) // JSON here has no line breaks
}

// page holds the files of the live page, which loads nothing from elsewhere. uPlot.iife.min.js and uPlot.min.css are uPlot's, version
// 1.6.32, unchanged, under the licence beside them.
//
//go:embed page
var page embed.FS

// pagePolicy lets the page load its own files only. A client's key that got into the page as markup could neither run
// nor send anything away.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

var pageTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

// WithLivePage serves the live page at /, its data at /v1/status, and the same data each second at /v1/live. The page itself
// needs no token, since it holds no data; it asks for the token if one is set. It shows overrides if [WithOverrides] stands before it.
func WithLivePage(sources LiveSources) Option {
	return func(a *Server, token fiber.Handler) {
		feed := &liveFeed{
			sources: sources, overrides: a.overrides, state: a.readiness.of, log: a.log, viewers: make(map[chan []byte]struct{}),
		}
		a.stopping = append(a.stopping, feed.close)
		a.http.App.Get("/v1/live", token, feed.stream)
		a.http.App.Get("/v1/status", token, feed.once)
		a.http.App.Get("/", asset("index.html"))
		entries, _ := fs.ReadDir(page, "page") // it is embedded
		for _, e := range entries {
			a.http.App.Get("/page/"+e.Name(), asset(e.Name()))
		}
	}
}

func asset(name string) fiber.Handler {
	body, _ := page.ReadFile("page/" + name) // it is embedded
	contentType := pageTypes[path.Ext(name)]
	if contentType == "" {
		contentType = fiber.MIMETextPlainCharsetUTF8
	}
	return func(c *fiber.Ctx) error {
		h := &c.Context().Response.Header
		h.Set(fiber.HeaderContentType, contentType)
		h.Set(fiber.HeaderContentSecurityPolicy, pagePolicy)
		h.Set(fiber.HeaderXContentTypeOptions, "nosniff")
		h.Set(fiber.HeaderReferrerPolicy, "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set(fiber.HeaderCacheControl, "no-cache")
		return c.Send(body)
	}
}

// once answers with the data that the live page shows now.
func (f *liveFeed) once(c *fiber.Ctx) error {
	ctx, cancel := context.WithTimeout(c.UserContext(), healthTimeout)
	defer cancel()
	return answerJSON(c, f.snapshot(f.sources.Health.CheckHealth(ctx)))
}
