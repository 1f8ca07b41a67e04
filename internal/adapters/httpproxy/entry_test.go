package httpproxy_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/web/webtest"
)

// TestProxy_everySpellingOfAPathIsTheSame: what is decided is forwarded.
func TestProxy_everySpellingOfAPathIsTheSame(t *testing.T) {
	spell := strings.NewReplacer("%R", "%6frders", "/API/R", "/API/orders", "R", "orders")
	for name, c := range map[string]struct {
		table   map[string]string
		slashes string
	}{"usual": {webtest.Paths, ""}, "slashes allowed": {webtest.EncodedSlashes, "allow"}} {
		t.Run(name, func(t *testing.T) {
			w := new(recorder)
			addr := openWith(t, w, func(cfg *config) { cfg.EncodedSlashes = c.slashes })
			for target, want := range c.table {
				w.reset()
				target, want = spell.Replace(target), spell.Replace(want)
				got := exchange(t, addr, plainly(target, ""), 1)[0]
				if want == "" {
					got.refused(t, target)
					assert.Empty(t, w.decided, target)
					assert.Empty(t, w.reached, target)
					continue
				}
				assert.Equal(t, 200, got.status, "%s: %s", target, got.body)
				require.Len(t, w.decided, 1, target)
				assert.Equal(t, want, w.decided[0].Path, target)
				_, query, asked := strings.Cut(target, "?")
				if asked {
					want += "?" + query
				}
				assert.Equal(t, []string{want}, w.reached, target)
			}
		})
	}
}

// TestProxy_whoTheClientIs: the peer is 127.0.0.1.
func TestProxy_whoTheClientIs(t *testing.T) {
	var trusting, distrusting recorder
	believes, ignores := openRecorded(t, &trusting, "loopback", "10.0.0.0/8"), openRecorded(t, &distrusting)
	for lines, want := range webtest.Clients {
		trusting.reset()
		exchange(t, believes, plainly("/", lines), 1)
		require.Len(t, trusting.decided, 1, lines)
		assert.Equal(t, want, trusting.decided[0].Client.String(), lines)

		distrusting.reset()
		exchange(t, ignores, plainly("/", lines), 1)
		require.Len(t, distrusting.decided, 1, lines)
		assert.Equal(t, "127.0.0.1", distrusting.decided[0].Client.String(), lines)
	}
}

func TestProxy_methodsAreNotOverridden(t *testing.T) {
	w := new(recorder)
	addr := openRecorded(t, w)
	exchange(t, addr, plainly("/x", "X-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Method-Override: DELETE\r\n"), 1)
	assert.Equal(t, "GET", w.decided[0].Method)
	for name := range w.upstream {
		assert.NotContains(t, strings.ToLower(name), "method")
	}
}

// TestProxy_quotas: the upstream's answer and the denial tell of a quota what they tell of a bucket.
func TestProxy_quotas(t *testing.T) {
	upstream := startUpstream(t, func(http.ResponseWriter, *http.Request) {})
	for name, c := range webtest.Quotas(t) {
		t.Run(name, func(t *testing.T) {
			got := call(t, "GET", "http://"+start(t, proxyConfig(upstream), always(c.Decision))+"/", "")
			assert.Equal(t, c.Status, got.status)
			for header, want := range c.Header {
				assert.Equal(t, want, got.header.Get(header), header)
			}
			for member, want := range c.Problem {
				assert.Equal(t, want, got.problem(t)[member], member)
			}
		})
	}
}

// The limiter says that a header which decides limits came from a peer that is not trusted.
func TestProxy_ignoredHeaderOfLimitsIsLoggedOnce(t *testing.T) {
	core, logged := observer.New(zapcore.WarnLevel)
	d := decided(t, 9, 1, true)
	d.IgnoredHeader = "x-plan"
	_, addr := startServer(t, proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) {})), always(d), zap.New(core))
	for range 3 {
		call(t, "GET", "http://"+addr+"/orders", "", "X-Plan", "pro")
	}
	lines := logged.FilterMessageSnippet("VELOCITY_TRUSTED_PROXIES").All()
	require.Len(t, lines, 1)
	assert.Equal(t, map[string]any{"header": "x-plan", "peer": "127.0.0.1"}, lines[0].ContextMap())
}
