//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// browserTimeout bounds each command to the browser, so that an element that never appears ends the test.
const browserTimeout = 90 * time.Second

// browser is a real Chromium with one tab. It records errors on the console and requests.
type browser struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // chromedp keeps the tab in it

	mu        sync.Mutex
	console   []string // errors and warnings of the console
	requested []string // URLs
}

// openBrowser starts Chromium without a window. The test's cleanup ends it, and asserts that the console stayed empty.
func openBrowser(t *testing.T, options ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	require.NoError(t, err, "these tests need a browser: apt-get install chromium")
	options = append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.WindowSize(1280, 900), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true),
	}, options...)
	ctx, endBrowser := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(endBrowser)
	b := &browser{t: t}
	ctx, closeTab := chromedp.NewContext(ctx, chromedp.WithListener(b.record),
		chromedp.WithErrorf(func(string, ...any) {})) // errors about unknown events
	t.Cleanup(closeTab)
	b.ctx = ctx
	// The browser lives as long as the context of the first actions.
	require.NoError(t, chromedp.Do(ctx, send(network.Enable, network.EnableParams{}), send(log.Enable, cdp.Empty{})))
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		assert.Empty(t, b.console, "the console")
	})
	return b
}

func (b *browser) record(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.console = append(b.console, e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			text, _ := json.Marshal(e.Args)
			b.console = append(b.console, string(text))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.console = append(b.console, e.Entry.Text+" "+e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		b.requested = append(b.requested, e.Request.URL)
	}
}

// send is an action that sends a command and drops the result.
func send[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, c, params)
		return err
	})
}

func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTimeout)
	defer cancel()
	require.NoError(b.t, chromedp.Do(ctx, actions...))
}

// text evaluates an expression of JavaScript and returns it as a string.
func (b *browser) text(expression string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTimeout)
	defer cancel()
	s, err := chromedp.Run(ctx, chromedp.Evaluate[string]("String("+expression+")"))
	require.NoError(b.t, err, expression)
	return s
}

// eventually waits until the expression has the value.
func (b *browser) eventually(expression, want string) {
	b.t.Helper()
	var got string
	ok := assert.Eventually(b.t, func() bool {
		got = b.text(expression)
		return got == want
	}, harness.Timeout, 5*harness.Interval, expression)
	require.True(b.t, ok, "%s is %q, not %q", expression, got, want)
}

// requestsBeyond returns the URLs that were requested from other origins.
func (b *browser) requestsBeyond(origin string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []string
	for _, url := range b.requested {
		if !strings.HasPrefix(url, origin+"/") {
			list = append(list, url)
		}
	}
	return list
}

// clearConsole drops the messages so far, after errors that a test caused on purpose.
func (b *browser) clearConsole() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.console = nil
}
